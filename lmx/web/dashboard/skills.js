// Skills: what there is, a form to try each, and what has run since the page was opened.

import { ask, explain, isExpected } from "./api.js";
import { byId, clockTime, duration, keyed, make, outputText, setHidden, setText, written } from "./dom.js";

const KEPT_RUNS = 20;

export class Skills {
  #onList;

  // `onOpen` is told when somebody wants to see them, `onList` gets those that there are.
  constructor({ onOpen, onList }) {
    this.#onList = onList;
    for (const id of ["skills-card", "chat-skills"]) setHidden(byId(id), false);
    for (const panel of this.#panels) panel.addEventListener("toggle", onOpen);
  }

  get #panels() {
    return [byId("skills-panel"), byId("chat-skills")];
  }

  get isOpen() {
    return this.#panels.some(({ open }) => open);
  }

  async refresh() {
    try {
      this.#draw(await ask("/v1/skills?latest_only=true"));
      this.#showError("");
    } catch (error) {
      if (!isExpected(error)) throw error;
      this.#showError(explain(error));
    }
  }

  #draw({ data, broken }) {
    keyed(byId("skills"), data, {
      key: ({ reference }) => reference, create: (skill) => new Trial(skill).node, update: describe,
    });
    keyed(byId("skills-broken"), broken, {
      key: ({ path }) => path,
      create: ({ path }) => make("li", {},
        make("span", { class: "badge", "data-state": "failed", text: "broken" }), " ",
        make("strong", { text: path }), make("p", { class: "small reason" })),
      update: (node, { error }) => setText(node.lastChild, error),
    });
    setText(byId("skills-count"), `(${data.length}${broken.length ? `, ${broken.length} broken` : ""})`);
    setHidden(byId("skills-empty"), data.length + broken.length > 0);
    this.#onList(data);
  }

  #showError(text) {
    setText(byId("skills-error"), text);
    setHidden(byId("skills-error"), !text);
  }
}

// Fills what a list says of a skill that may have changed.
function describe(node, { reference, kind, description, permission_tags: permissions, risk_tags: risks, requires_approval: isAsked }) {
  const [kindBadge, askedBadge, text, may] = [...node.querySelectorAll("summary span")];
  setText(kindBadge, kind);
  setHidden(askedBadge, !isAsked);
  setText(text, description);
  setText(may, permissions.length ? `may use ${permissions.join(", ")}` : "");
  const facts = risks.length ? `${reference} · risks: ${risks.join(", ")}` : reference;
  setText(node.querySelector("details > p"), facts);
}

// The form that tries a skill.
class Trial {
  #path;
  #given;
  #run = make("button", { type: "submit", class: "primary", text: "Run" });
  #stop = make("button", { type: "button", text: "Stop", hidden: true, onclick: () => this.#abort.abort() });
  #allow;
  #state = make("span", { class: "muted small", role: "status" });
  #output = make("pre", { class: "output", hidden: true, tabindex: "0" });
  #abort = null;

  constructor({ name, reference, input_schema: schema }) {
    this.#path = `/v1/skills/${encodeURIComponent(reference)}/execute`;
    const text = JSON.stringify(example(schema), null, 1).replace(/\n\s*/g, " ");
    this.#given = make("textarea", { spellcheck: "false", "aria-label": `Arguments of ${name}, as JSON` });
    this.#given.rows = 2;
    this.#given.value = text;
    this.#output.setAttribute("aria-label", `Output of ${name}`);
    this.#run.setAttribute("aria-label", `Run ${name}`);
    this.#allow = make("button", { type: "button", hidden: true, text: "Approve and run", onclick: () => this.#try({ approved: true }) });
    const form = make("form", { autocomplete: "off" }, this.#given,
      make("div", { class: "line" }, this.#run, this.#allow, this.#stop, this.#state), this.#output);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#try({});
    });
    this.node = make("li", {}, make("details", {},
      make("summary", {}, make("strong", { text: name }), " ",
        make("span", { class: "badge" }), " ",
        make("span", { class: "badge", "data-state": "needs approval", text: "needs approval" }), " ",
        make("span"), " ", make("span", { class: "muted small" })),
      make("p", { class: "muted small" }), form));
  }

  async #try(decision) {
    if (this.#abort) return;
    let given = null;
    try {
      given = JSON.parse(this.#given.value.trim() || "{}");
    } catch (error) {
      this.#show(`no JSON: ${error.message}`);
      return;
    }
    this.#setRunning(new AbortController());
    this.#show("runs");
    try {
      const { signal } = this.#abort;
      this.#tell(await ask(this.#path, { method: "POST", body: { arguments: given, ...decision }, signal }));
    } catch (error) {
      if (error.name === "AbortError") this.#show("stopped by you");
      else if (isExpected(error)) this.#show(explain(error));
      else throw error;
    } finally {
      this.#setRunning(null);
    }
  }

  #tell({ output, error, duration_ms: ms, ...flags }) {
    this.#show(`${written(flags)}, ${duration(ms / 1000)}`, flags.ok ? outputText(output) : error ?? "");
    setHidden(this.#allow, !flags.requires_approval);
  }

  #show(state, output = "") {
    setText(this.#state, state);
    setText(this.#output, output);
    setHidden(this.#output, !output);
    setHidden(this.#allow, true);
  }

  #setRunning(abort) {
    this.#abort = abort;
    this.#run.disabled = abort !== null;
    setHidden(this.#stop, abort === null);
  }
}

// Arguments to begin with: what is needed and what has a default.
function example({ properties = {}, required = [] }) {
  const wanted = Object.entries(properties).filter(([name, { default: value }]) => required.includes(name) || value !== undefined);
  return Object.fromEntries(wanted.map(([name, property]) => [name, exampleValue(property)]));
}

const EMPTY = { string: "", number: 0, integer: 0, boolean: false, array: [], object: {} };

function exampleValue({ default: value, enum: choices, type, minimum }) {
  return value ?? choices?.[0] ?? minimum ?? EMPTY[[type].flat()[0]] ?? null;
}

// Runs by anybody, as the server's events tell of them.
export class Runs {
  #runs = []; // the latest first
  #count = 0;

  take({ type, skill, request_id: request, outcome, duration_ms: ms }, time) {
    let run = type === "skill_finished"
      ? this.#runs.findLast((one) => one.state === "running" && one.skill === skill && one.request === request)
      : undefined;
    if (!run) {
      this.#count += 1;
      run = { id: String(this.#count), skill, request, time, state: "running" };
      this.#runs.unshift(run);
      this.#runs.length = Math.min(this.#runs.length, KEPT_RUNS);
    }
    if (type === "skill_finished") Object.assign(run, { state: outcome.replace("_", " "), ms });
    this.#draw();
  }

  // Nobody knows what became of runs whose ends were missed.
  forgetRunning() {
    this.#runs = this.#runs.filter(({ state }) => state !== "running");
    this.#draw();
  }

  #draw() {
    setHidden(byId("skill-runs-empty"), this.#runs.length > 0);
    keyed(byId("skill-runs"), this.#runs, {
      key: ({ id }) => id,
      create: ({ skill, request, time }) => make("li", {}, make("p", {},
        make("span", { class: "badge" }), " ", make("strong", { text: skill }), " ", make("span", { class: "muted small" }),
        make("span", { class: "muted small", text: ` ${[clockTime(time), request].filter(Boolean).join(", ")}` }))),
      update: (node, { state, ms }) => {
        const [badge, , took] = node.firstChild.children;
        setText(badge, state);
        badge.dataset.state = state;
        setText(took, ms === undefined ? "" : `${duration(ms / 1000)},`);
      },
    });
  }
}

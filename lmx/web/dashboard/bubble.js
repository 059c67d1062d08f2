// A message in the conversation: reasoning, text, and calls of skills, in the order in which they
// come. It follows its end unless somebody has scrolled up.

import { byId, duration, make, outputText, setHidden, setText, written } from "./dom.js";

export class Bubble {
  #list = byId("chat-log");
  #item;
  #open = {}; // the paragraphs that grow, by class; a call ends them
  #calls = new Map(); // by id

  constructor(role) {
    this.#item = make("li", { class: `bubble ${role}` }, make("span", { class: "hidden-label", text: `${role}: ` }));
    this.#list.append(this.#item);
    this.#list.scrollTop = this.#list.scrollHeight;
  }

  say(text) {
    this.#grow("said", text);
  }

  think(text) {
    this.#grow("thought muted small", text);
  }

  complain(text) {
    this.#change(() => this.#item.append(make("p", { class: "error", role: "alert", text })));
  }

  // News of a call: that it runs, what came of it, or that it waits for a decision.
  tell(event) {
    this.#open = {};
    this.#change(() => this.#callOf(event).take(event));
  }

  // What somebody decides of a call that waits; rejects if it is not to be known any more.
  decide(event, signal) {
    return this.#callOf(event).decide(signal);
  }

  #grow(kind, text) {
    this.#change(() => {
      if (!this.#open[kind]) {
        this.#open[kind] = make("p", { class: kind });
        this.#item.append(this.#open[kind]);
      }
      const isFirst = !this.#open[kind].textContent;
      this.#open[kind].append(isFirst ? text.replace(/^\n+/, "") : text);
    });
  }

  #callOf({ call_id: id, name }) {
    if (!this.#calls.has(id)) {
      const call = new Call(name);
      this.#calls.set(id, call);
      this.#item.append(call.node);
    }
    return this.#calls.get(id);
  }

  #change(change) {
    const list = this.#list;
    const isAtEnd = list.scrollTop + list.clientHeight >= list.scrollHeight - 30;
    change();
    if (isAtEnd) list.scrollTop = list.scrollHeight;
  }
}

// One call of a skill, which opens to its arguments and its output.
class Call {
  #badge = make("span", { class: "badge" });
  #took = make("span", { class: "muted small" });
  #given = make("pre", { class: "output" });
  #output = make("pre", { class: "output", hidden: true });
  #choice;
  #decided = () => {};

  constructor(name) {
    const answer = (text, isAllowed, kind) =>
      make("button", { type: "button", class: kind, text, "aria-label": `${text} ${name}`, onclick: () => this.#decided(isAllowed) });
    this.#choice = make("div", { class: "line", role: "group", "aria-label": `Decision about ${name}`, hidden: true },
      answer("Allow", true, "primary"), answer("Refuse", false, ""));
    this.node = make("div", { class: "call" },
      make("details", {},
        make("summary", {}, this.#badge, " ", make("strong", { text: name }), " ", this.#took),
        this.#given, this.#output),
      this.#choice);
  }

  take({ type, arguments: given, ...result }) {
    if (given !== undefined) setText(this.#given, given);
    if (type === "skill.call") this.#show("running");
    else if (type === "skill.approval") this.#ask();
    else this.#end(result);
  }

  decide(signal) {
    return new Promise((resolve, reject) => {
      const settle = (act) => {
        setHidden(this.#choice, true);
        act();
      };
      this.#decided = (isAllowed) => settle(() => resolve(isAllowed));
      signal.addEventListener("abort", () => settle(() => reject(signal.reason)), { once: true });
    });
  }

  // Nobody should allow what they have not read.
  #ask() {
    this.#show("needs approval");
    this.node.firstChild.open = true;
    setHidden(this.#choice, false);
  }

  #end({ output, output_cut: isCut, error, duration_ms: ms, ...flags }) {
    this.#show(written(flags));
    setText(this.#took, duration(ms / 1000));
    setText(this.#output, flags.ok ? `${outputText(output)}${isCut ? " …" : ""}` : error ?? "");
    setHidden(this.#output, false);
  }

  #show(state) {
    setText(this.#badge, state);
    this.#badge.dataset.state = state;
  }
}

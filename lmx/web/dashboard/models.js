// The models: loaded, on their way, and on disk, with loads and unloads.
//
// A load's answer comes when the model is ready, which may take minutes; the lists are kept fresh
// by events meanwhile. A failure stays until somebody puts it away.

import { ask, explain, isExpected } from "./api.js";
import { age, now } from "./clock.js";
import { byId, bytes, duration, gigabytes, keyed, make, plural, row, setHidden, setText, short } from "./dom.js";

// A browser has six connections per server; loads must leave some for everything else.
const LOADS_AT_ONCE = 3;
const SUCCESS_SHOWN_S = 12;

export class Models {
  loadedIds = [];
  isBusy = false;
  #document = { loaded: [], loading: [] };
  #available = [];
  #activities = [];
  #running = 0;
  #count = 0;
  #onLists;
  #onDownload;

  // `onLists` hears of every refresh, `onDownload` of a load that became a download.
  constructor({ onLists, onDownload }) {
    this.#onLists = onLists;
    this.#onDownload = onDownload;
    byId("load-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const input = byId("load-name");
      if (input.value.trim()) this.load(input.value.trim());
      input.value = "";
    });
    setInterval(() => this.#draw(), 1000);
  }

  async refresh() {
    this.#document = await ask("/admin/models");
    this.loadedIds = this.#document.loaded.map(({ id }) => id);
    this.isBusy = this.#document.loading.length > 0;
    this.#draw();
    this.#onLists();
  }

  async refreshDisk() {
    this.#available = await ask("/admin/models/available");
    this.#draw();
  }

  async load(name) {
    const activity = this.#begin("load", name, "waits for other loads");
    while (this.#running >= LOADS_AT_ONCE) await new Promise((resolve) => setTimeout(resolve, 200));
    this.#running += 1;
    activity.text = "loading";
    activity.startedAt = now();
    this.#draw();
    try {
      const reply = await ask("/admin/models/load", { method: "POST", body: { model_id: name } });
      this.#finishLoad(activity, reply);
    } catch (error) {
      this.#fail(activity, error);
    } finally {
      this.#running -= 1;
      this.#settle();
    }
  }

  async unload(id) {
    const activity = this.#begin("unload", id, "unloading");
    try {
      const reply = await ask("/admin/models/unload", { method: "POST", body: { model_id: id } });
      this.#succeed(activity, `unloaded, ${gigabytes(reply.memory_freed_gb)} came free`);
    } catch (error) {
      this.#fail(activity, error);
    } finally {
      this.#settle();
    }
  }

  #finishLoad(activity, reply) {
    if (reply.download_id) {
      this.#succeed(activity, reply.message ?? "is downloaded first");
      this.#onDownload(reply);
    } else if (reply.status === "download_required") {
      activity.state = "failed";
      activity.text = reply.message ?? "has to be downloaded first";
      activity.token = reply.confirmation_token;
    } else {
      const took = duration((reply.time_to_load_ms ?? 0) / 1000);
      this.#succeed(activity, `loaded in ${took} as ${reply.model_id}, ${gigabytes(reply.vram_gb ?? 0)}`);
    }
  }

  // Agrees to a download that a load has asked for.
  async #confirm(activity) {
    this.#dismiss(activity);
    const again = this.#begin("load", activity.name, "asking for the download");
    try {
      const body = { confirmation_token: activity.token };
      this.#finishLoad(again, await ask("/admin/models/load/confirm", { method: "POST", body }));
    } catch (error) {
      this.#fail(again, error);
    }
    this.#settle();
  }

  #begin(kind, name, text) {
    this.#count += 1;
    const activity = { id: String(this.#count), kind, name, text, state: "running", startedAt: now(), endedAt: 0 };
    // The same attempt again puts the failure of the last one away.
    this.#activities = this.#activities.filter((old) => old.state !== "failed" || old.name !== name);
    this.#activities.unshift(activity);
    this.#draw();
    return activity;
  }

  #succeed(activity, text) {
    Object.assign(activity, { state: "done", text, endedAt: now() });
  }

  #fail(activity, error) {
    if (!isExpected(error)) throw error;
    Object.assign(activity, { state: "failed", text: explain(error), endedAt: now() });
  }

  #settle() {
    this.#draw();
    this.refresh().catch((error) => {
      if (!isExpected(error)) throw error;
    });
  }

  #dismiss(activity) {
    this.#activities = this.#activities.filter((other) => other !== activity);
    this.#draw();
  }

  #isUnderWay(kind, name) {
    return this.#activities.some((one) => one.state === "running" && one.kind === kind && one.name === name);
  }

  #draw() {
    const oldest = now() - SUCCESS_SHOWN_S;
    this.#activities = this.#activities.filter(({ state, endedAt }) => state !== "done" || endedAt > oldest);
    keyed(byId("activities"), this.#activities, {
      key: ({ id }) => id, create: (one) => this.#createActivity(one), update: updateActivity,
    });
    const { loaded, loading } = this.#document;
    keyed(byId("loading"), loading, {
      key: ({ id }) => id, create: (one) => this.#createModel(one, "Stop"),
      update: (node, one) => this.#updateLoading(node, one),
    });
    keyed(byId("loaded"), loaded, {
      key: ({ id }) => id, create: (one) => this.#createModel(one, "Unload"),
      update: (node, one) => this.#updateLoaded(node, one),
    });
    keyed(byId("disk"), this.#available, {
      key: ({ repo_id: id }) => id, create: (one) => this.#createOnDisk(one),
      update: (node, one) => this.#updateOnDisk(node, one),
    });
    keyed(byId("load-names"), this.#available.filter(({ repo_id: id }) => !this.loadedIds.includes(id)), {
      key: ({ repo_id: id }) => id, create: ({ repo_id: id }) => make("option", { value: id }), update: () => {},
    });
    setText(byId("disk-count"), `(${this.#available.length})`);
    setHidden(byId("disk-empty"), this.#available.length > 0);
    setHidden(byId("loaded-empty"), loaded.length + loading.length > 0);
  }

  #createActivity(activity) {
    const dismiss = make("button", { type: "button", text: "Dismiss", onclick: () => this.#dismiss(activity) });
    const confirm = make("button", { type: "button", class: "primary", text: "Download", onclick: () => this.#confirm(activity) });
    return make("li", {}, make("span", { class: "activity-text" }), make("progress", {}), confirm, dismiss);
  }

  #createModel({ id }, action) {
    const node = row([["Model", "name"], ["State"], ["Format"], ["Memory", "number"], ["Context", "number"], ["Use"], ["", "action"]]);
    node.cells[1].append(make("span", { class: "badge" }), make("span", { class: "muted small" }));
    node.cells[6].append(button(action, id, () => this.unload(id)));
    return node;
  }

  #updateLoading(node, { id, state, since, waiting, reason }) {
    const requests = waiting ? `, ${plural(waiting, "request")} ${waiting === 1 ? "waits" : "wait"}` : "";
    fillModel(node, { id, state, detail: ` for ${duration(age(since))}${requests}` });
    setText(node.cells[5], reason ? `The last attempt failed: ${reason}` : "");
    this.#setBusy(node, id);
  }

  #updateLoaded(node, model) {
    const state = model.readiness.state === "routable" ? "ready" : model.readiness.state;
    fillModel(node, { id: model.id, state, detail: model.readiness.reason ? ` ${model.readiness.reason}` : "" });
    const speed = model.stats.avg_tokens_per_second;
    const used = speed ? `, ${short(speed)} tokens/s` : "";
    setText(node.cells[2], model.backend);
    setText(node.cells[3], gigabytes(model.memory_gb));
    setText(node.cells[4], String(model.context_length));
    setText(node.cells[5], plural(model.request_count, "request") + used);
    this.#setBusy(node, model.id);
  }

  #setBusy(node, id) {
    node.cells[6].firstChild.disabled = this.#isUnderWay("unload", id);
  }

  #createOnDisk({ repo_id: id }) {
    const node = row([["Model", "name"], ["Format"], ["Size", "number"], ["Status"], ["", "action"]]);
    node.cells[4].append(button("Load", id, () => this.load(id)));
    return node;
  }

  #updateOnDisk(node, model) {
    const { repo_id: id, format, quantization, status = "complete", reason } = model;
    const load = node.cells[4].firstChild;
    const isLoaded = this.loadedIds.includes(id);
    const isComing = this.#isUnderWay("load", id) || this.#document.loading.some((one) => one.id === id);
    setText(node.cells[0], id);
    setText(node.cells[1], [format, quantization].filter(Boolean).join(" "));
    setText(node.cells[2], bytes(model.size_bytes));
    setText(node.cells[3], isLoaded ? "loaded" : [status, reason].filter(Boolean).join(": "));
    node.cells[3].classList.toggle("error", !isLoaded && status !== "complete");
    setText(load, isComing ? "Loading…" : "Load");
    load.disabled = isComing || isLoaded;
  }
}

const button = (action, id, onclick) =>
  make("button", { type: "button", text: action, "aria-label": `${action} ${id}`, onclick });

function fillModel(node, { id, state, detail }) {
  const [badge, text] = node.cells[1].children;
  setText(node.cells[0], id);
  setText(badge, state);
  badge.dataset.state = state;
  setText(text, detail);
}

function updateActivity(node, { kind, name, text, state, startedAt, token }) {
  const [line, progress, confirm, dismiss] = node.children;
  node.dataset.state = state;
  setText(line, state === "running" ? `${name}: ${text} for ${duration(now() - startedAt)}` : `${name}: ${text}`);
  progress.setAttribute("aria-label", `${kind} ${name}`);
  setHidden(progress, state !== "running");
  setHidden(confirm, !token);
  setHidden(dismiss, state === "running");
}

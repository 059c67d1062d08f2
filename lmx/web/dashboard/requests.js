// The requests that wait or run now, each with a button that cancels it.

import { ask, ApiError, explain, isExpected } from "./api.js";
import { byId, duration, keyed, make, row, setHidden, setText, short } from "./dom.js";

const NOT_FOUND = 404;

export class Requests {
  #cancelled = new Set();

  constructor() {
    setHidden(byId("requests-card"), false);
  }

  async refresh() {
    const { requests, count } = await ask("/admin/requests");
    const present = new Set(requests.map(({ request_id: id }) => id));
    for (const id of this.#cancelled) if (!present.has(id)) this.#cancelled.delete(id);
    setText(byId("requests-count"), count ? `(${count})` : "");
    setHidden(byId("requests-empty"), count > 0);
    keyed(byId("requests"), requests, {
      key: ({ request_id: id }) => id,
      create: ({ request_id: id }) => this.#create(id),
      update: (node, request) => this.#update(node, request),
    });
  }

  async #cancel(id) {
    this.#cancelled.add(id);
    this.#showError("");
    try {
      await ask(`/admin/requests/${encodeURIComponent(id)}/cancel`, { method: "POST" });
    } catch (error) {
      if (!isExpected(error)) throw error;
      // One that has ended meanwhile is what was wanted.
      if (!(error instanceof ApiError && error.status === NOT_FOUND)) {
        this.#cancelled.delete(id);
        this.#showError(`${id} was not cancelled: ${explain(error)}`);
      }
    }
    await this.refresh().catch((error) => {
      if (!isExpected(error)) throw error;
    });
  }

  #showError(text) {
    setText(byId("requests-error"), text);
    setHidden(byId("requests-error"), !text);
  }

  #create(id) {
    const node = row([["Request", "name id"], ["Model", "name"], ["Client"], ["State"], ["Age", "number"],
      ["Tokens", "number"], ["Speed", "number"], ["", "action"]]);
    node.cells[3].append(make("span", { class: "badge" }));
    node.cells[7].append(make("button", {
      type: "button", text: "Cancel", "aria-label": `Cancel ${id}`, onclick: () => this.#cancel(id),
    }));
    return node;
  }

  #update(node, request) {
    const [id, model, client, state, old, tokens, speed, action] = node.cells;
    setText(id, request.request_id.length > 14 ? `${request.request_id.slice(0, 12)}…` : request.request_id);
    id.title = `${request.request_id}\n${request.route}`;
    setText(model, request.model_id || "–");
    setText(client, request.client);
    setText(state.firstChild, request.state);
    state.firstChild.dataset.state = request.state;
    setText(old, duration(request.age_s));
    setText(tokens, `${request.prompt_tokens ?? "–"} + ${request.completion_tokens ?? 0}`);
    setText(speed, request.tokens_per_second ? `${short(request.tokens_per_second)} /s` : "–");
    action.firstChild.disabled = this.#cancelled.has(request.request_id);
  }
}

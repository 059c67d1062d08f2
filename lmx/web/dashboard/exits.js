// Workers that ended without having been told to, the latest first, and why. What happened before
// this page was opened is found in the log.

import { ask } from "./api.js";
import { byId, clockTime, keyed, make, setHidden, setText } from "./dom.js";

const KEPT = 50;
const LOG_LINES = 1000;
const LOGGED_AS = "worker ended";

export class Exits {
  #exits = [];

  // An event of the server.
  take({ model_id: model, kind, reason, pid, ts }) {
    this.#add({ model, kind, reason, pid, ts: ts ?? Date.now() / 1000 });
  }

  async readLog() {
    const { lines } = await ask(`/admin/logs/tail?lines=${LOG_LINES}`);
    for (const line of lines) if (line.event === LOGGED_AS) this.#add(line);
    this.#draw();
  }

  #add({ model, kind, reason, pid, ts }) {
    // The log and a replayed event may tell of the same end, some milliseconds apart.
    const isKnown = this.#exits.some((exit) =>
      exit.model === model && (pid ? exit.pid === pid : exit.kind === kind) && Math.abs(exit.ts - ts) < 60);
    if (isKnown) return;
    this.#exits.push({ model, kind, reason, pid, ts });
    this.#exits.sort((one, other) => other.ts - one.ts);
    this.#exits.length = Math.min(this.#exits.length, KEPT);
    this.#draw();
  }

  #draw() {
    setText(byId("exits-count"), this.#exits.length ? `(${this.#exits.length})` : "");
    setHidden(byId("exits-empty"), this.#exits.length > 0);
    keyed(byId("exits"), this.#exits, {
      key: ({ ts, model, pid }) => `${ts} ${model} ${pid}`,
      create: ({ ts, model, kind, reason, pid }) => make("li", {},
        make("p", {},
          make("span", { class: "badge", "data-state": "failed", text: kind }), " ",
          make("strong", { text: model }), " ",
          make("span", { class: "muted small", text: `${clockTime(ts)}${pid ? `, process ${pid}` : ""}` })),
        make("p", { class: "small reason", text: reason })),
      update: () => {},
    });
  }
}

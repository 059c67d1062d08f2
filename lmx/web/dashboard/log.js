// The end of the server's log, read while its panel is open.

import { ask, explain, isExpected } from "./api.js";
import { byId, clockTime, make, setHidden, setText } from "./dom.js";

const LINES = 300;
const LEVELS = ["debug", "info", "warning", "error", "critical"];
const SHOWN_FIRST = new Set(["ts", "level", "event", "logger"]);

export class Log {
  #shown = "";

  // `onOpen` is told when somebody wants to see it.
  constructor(onOpen) {
    setHidden(byId("log-card"), false);
    byId("log-panel").addEventListener("toggle", onOpen);
    byId("log-level").addEventListener("change", onOpen);
  }

  get isOpen() {
    return byId("log-panel").open;
  }

  async refresh() {
    let lines = [];
    try {
      ({ lines } = await ask(`/admin/logs/tail?lines=${LINES}`));
    } catch (error) {
      if (!isExpected(error)) throw error;
      setText(byId("log-state"), explain(error));
      return;
    }
    const least = LEVELS.indexOf(byId("log-level").value);
    this.#draw(lines.filter(({ level }) => LEVELS.indexOf(level) >= least || !LEVELS.includes(level)));
  }

  #draw(lines) {
    setText(byId("log-state"), `${lines.length} of the last ${LINES} lines`);
    const shown = JSON.stringify(lines);
    if (shown === this.#shown) return;
    this.#shown = shown;
    const list = byId("log-lines");
    // Whoever has scrolled up reads; whoever is at the end follows.
    const isAtEnd = list.scrollTop + list.clientHeight >= list.scrollHeight - 20;
    list.replaceChildren(...lines.map(lineNode));
    if (isAtEnd) list.scrollTop = list.scrollHeight;
  }
}

function lineNode(line) {
  const rest = Object.entries(line).filter(([name]) => !SHOWN_FIRST.has(name));
  const text = rest.map(([name, value]) => `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`);
  return make("li", { "data-level": line.level },
    make("span", { class: "muted", text: `${clockTime(line.ts)} ` }),
    make("span", { class: "log-level", text: `${line.level} ` }),
    make("strong", { text: String(line.event) }),
    make("span", { class: "muted", text: text.length ? ` ${text.join(" ")}` : "" }));
}

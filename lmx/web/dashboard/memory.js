// The memory bar: who has what of the machine, from the ledger that the server keeps.

import { ask } from "./api.js";
import { byId, gigabytes, keyed, make, setText } from "./dom.js";

const MODEL_COLOURS = 6;

export class MemoryBar {
  #measures;
  #colours = new Map(); // a model keeps its colour while the page is open

  constructor(measures) {
    this.#measures = measures;
  }

  async refresh() {
    const memory = await ask("/admin/memory");
    this.#measures.takeMemory({ used: memory.used_gb, total: memory.total_gb });
    this.#measures.setMarks([memory.warning_percent, memory.threshold_percent]);
    const parts = memoryParts(memory);
    const whole = Math.max(memory.total_gb, parts.reduce((sum, part) => sum + part.gb, 0), 1e-9);
    this.#draw(parts, memory, whole);
    setText(byId("memory-summary"),
      `${gigabytes(memory.used_gb)} of ${gigabytes(memory.total_gb)} in use, ` +
      `budget for models ${gigabytes(memory.budget.budget_gb)}`);
  }

  #draw(parts, memory, whole) {
    const shown = parts.filter(({ gb }) => gb > 0);
    keyed(byId("memory-bar"), [...shown, ...memoryMarks(memory, parts)], {
      key: ({ id }) => id,
      create: ({ kind }) => make("div", { class: `part ${kind}` }),
      update: (node, part) => {
        node.className = this.#classOf(part);
        node.title = `${part.name}: ${part.at === undefined ? gigabytes(part.gb) : gigabytes(part.at)}`;
        if (part.at === undefined) node.style.width = `${(100 * part.gb) / whole}%`;
        else node.style.left = `${Math.min(100, (100 * part.at) / whole)}%`;
      },
    });
    const named = [...parts.filter(({ kind, gb }) => gb > 0 || kind !== "reserved"), ...memoryMarks(memory, parts)];
    keyed(byId("memory-legend"), named, {
      key: ({ id }) => id,
      create: () => make("li", {}, make("span", { class: "swatch" }), make("span")),
      update: (node, part) => {
        const [swatch, label] = node.children;
        swatch.className = `swatch ${this.#classOf(part)}`;
        setText(label, part.at === undefined ? `${part.name} ${gigabytes(part.gb)}` : part.name);
      },
    });
    byId("memory-bar").setAttribute("aria-label", parts.map(({ name, gb }) => `${name} ${gigabytes(gb)}`).join(", "));
  }

  #classOf({ kind, id }) {
    if (kind !== "model" && kind !== "coming") return `part ${kind}`;
    if (!this.#colours.has(id)) this.#colours.set(id, this.#colours.size % MODEL_COLOURS);
    return `part ${kind} colour-${this.#colours.get(id)}`;
  }
}

// From left to right: others, each model, what is reserved beyond that, and what is free to reserve.
export function memoryParts({ used_gb: used, total_gb: total, models, budget }) {
  const all = Object.entries(models).sort(([, one], [, other]) => other.loaded - one.loaded);
  const loaded = all.reduce((sum, [, model]) => sum + (model.loaded ? model.memory_gb : 0), 0);
  const spoken = all.reduce((sum, [, model]) => sum + model.memory_gb, 0);
  const others = Math.max(0, used - loaded);
  const reserved = Math.max(0, budget.reserved_gb - spoken);
  const left = Math.max(0, total - others - spoken - reserved);
  return [
    { id: "others", kind: "others", name: "Others", gb: others },
    ...all.map(([id, model]) => ({
      id: `model ${id}`, kind: model.loaded ? "model" : "coming",
      name: model.loaded ? id : `${id} (loading)`, gb: model.memory_gb,
    })),
    { id: "reserved", kind: "reserved", name: "Reserved for KV caches", gb: reserved },
    { id: "free", kind: "free", name: "Free for models", gb: Math.min(budget.free_gb, left) },
  ];
}

function memoryMarks({ total_gb: total, warning_percent: warning, threshold_percent: critical, budget }, parts) {
  const others = parts[0].gb;
  return [
    { id: "mark budget", kind: "mark mark-budget", name: "Budget ends", at: others + budget.budget_gb },
    { id: "mark warning", kind: "mark mark-warning", name: `${warning} % warns`, at: (total * warning) / 100 },
    { id: "mark critical", kind: "mark mark-critical", name: `${critical} % makes room`, at: (total * critical) / 100 },
  ];
}

// The live charts: which of the server's measures are drawn, and how.

import { Chart, Listening, Series } from "./charts.js";
import { now } from "./clock.js";
import { gigabytes, short } from "./dom.js";

const FRESH_S = 2.5; // throughput comes each second while anything runs
const PERCENT = 100;

export class Measures {
  #listening = new Listening();
  #series = {};
  #charts;
  #memory = null;
  #marks = [];
  #stream;

  constructor(stream) {
    this.#stream = stream;
    for (const name of ["speed", "ttft", "itl", "running", "waiting", "memory"]) this.#series[name] = new Series();
    this.#charts = this.#define().map((options) => new Chart(options, this.#listening));
    stream.on("throughput", (fields, time) => this.#takeThroughput(fields, time));
    stream.on("memory", (fields, time) =>
      this.takeMemory({ used: fields.vram_used_gb, total: fields.vram_total_gb, time }));
    stream.addEventListener("state", () => this.#listening.mark(stream.state === "live"));
    setInterval(() => this.#tick(), 1000);
  }

  takeMemory({ used, total, time = now() }) {
    this.#memory = { used, total };
    this.#series.memory.add(time, total ? (PERCENT * used) / total : 0);
  }

  // Percentages at which the server warns and makes room.
  setMarks(marks) {
    this.#marks = marks;
  }

  #tick() {
    this.#listening.mark(this.#stream.state === "live");
    if (!document.hidden) for (const chart of this.#charts) chart.draw();
  }

  #takeThroughput(fields, time) {
    const { speed, ttft, itl, running, waiting } = this.#series;
    speed.add(time, fields.tokens_per_second);
    running.add(time, fields.active_requests);
    waiting.add(time, fields.waiting_requests ?? 0);
    if (fields.ttft_ms !== null) ttft.add(time, fields.ttft_ms);
    if (fields.itl_ms !== null) itl.add(time, fields.itl_ms);
  }

  #define() {
    const { speed, ttft, itl, running, waiting, memory } = this.#series;
    const one = (series) => [{ series, class: "line-a" }];
    return [
      { id: "chart-speed", title: "Tokens/s", lines: one(speed), isZeroWhenIdle: true, least: 10,
        show: () => short(this.#current(speed)) },
      { id: "chart-ttft", title: "TTFT", lines: one(ttft), least: 10, show: () => this.#latest(ttft) },
      { id: "chart-itl", title: "ITL", lines: one(itl), least: 10, show: () => this.#latest(itl) },
      { id: "chart-queue", title: "Queue", isZeroWhenIdle: true, least: 4,
        lines: [{ series: running, class: "line-a" }, { series: waiting, class: "line-b" }],
        show: () => `${short(this.#current(running))} run, ${short(this.#current(waiting))} wait` },
      { id: "chart-memory", title: "Memory, %", lines: one(memory), top: PERCENT, maxGapS: 15,
        marks: [() => this.#marks[0] ?? PERCENT, () => this.#marks[1] ?? PERCENT],
        show: () => this.#showMemory() },
    ];
  }

  // What holds now: nothing runs where nothing was said of late.
  #current({ last }) {
    return last && now() - last.time < FRESH_S ? last.value : this.#stream.state === "live" ? 0 : NaN;
  }

  #latest({ last }) {
    return last ? `${short(last.value)} ms` : "–";
  }

  #showMemory() {
    if (!this.#memory) return "–";
    const { used, total } = this.#memory;
    return `${gigabytes(used)}, ${total ? Math.round((PERCENT * used) / total) : 0} %`;
  }
}

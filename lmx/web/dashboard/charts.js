// Line charts of the last two minutes, drawn as SVG: sharp on every screen, in the colours of the
// style sheet. A chart knows samples and the spans in which somebody listened; what it shows means
// nothing to it.

import { now } from "./clock.js";
import { byId, make, makeSvg, setText, short } from "./dom.js";

const WINDOW_S = 120;
const KEPT_S = WINDOW_S + 30;
const HEIGHT = 110;
const LEFT = 38; // room for the scale
const RIGHT = 6;
const TOP = 8;
const BOTTOM = 16;

// Samples by time, oldest first.
export class Series {
  samples = [];

  add(time, value) {
    if (!Number.isFinite(value)) return;
    let place = this.samples.length;
    while (place > 0 && this.samples[place - 1].time > time) place -= 1;
    this.samples.splice(place, 0, { time, value });
    const oldest = now() - KEPT_S;
    while (this.samples.length && this.samples[0].time < oldest) this.samples.shift();
  }

  get last() {
    return this.samples.at(-1);
  }
}

// When the server was heard: only then does silence mean that nothing ran.
export class Listening {
  #spans = [];
  #isOn = false;

  mark(isOn) {
    const time = now();
    if (this.#isOn) this.#spans.at(-1).end = time;
    if (isOn && !this.#isOn) this.#spans.push({ start: time, end: time });
    this.#isOn = isOn;
    while (this.#spans.length && this.#spans[0].end < time - KEPT_S) this.#spans.shift();
  }

  covers(time) {
    return this.#spans.some(({ start, end }) => start <= time && time <= end);
  }
}

// The pieces of a line: lists of samples without a gap between them.
export function pieces(samples, { start, end, maxGapS, isZeroWhenIdle, listening }) {
  const seen = samples.filter(({ time }) => time >= start - maxGapS && time <= end);
  const filled = isZeroWhenIdle ? withZeroes(seen, { start, end, maxGapS, listening }) : seen;
  const runs = [];
  for (const sample of filled) {
    const run = runs.at(-1);
    if (run && sample.time - run.at(-1).time <= maxGapS) run.push(sample);
    else runs.push([sample]);
  }
  return runs;
}

// A zero for each second without a sample, as far as somebody listened.
function withZeroes(samples, { start, end, maxGapS, listening }) {
  const filled = [];
  let before = start - 1;
  for (const sample of [...samples, { time: end, value: null }]) {
    if (sample.time - before > maxGapS)
      for (let time = before + 1; time < sample.time - 0.5; time += 1)
        if (listening.covers(time)) filled.push({ time, value: 0 });
    if (sample.value !== null) filled.push(sample);
    before = sample.time;
  }
  return filled;
}

// The end of a scale: not below the value, and half of it is a round number, too.
export function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 6, 8, 10].map((step) => step * power).find((top) => top >= value * 0.999);
}

export class Chart {
  #options;
  #listening;
  #svg;
  #value = make("span", { class: "chart-value" });
  #width = 300;

  // options: { id, title, unit, lines: [{ series, name, class }], least, top, marks, maxGapS,
  // isZeroWhenIdle, show } where `top` fixes the scale, `least` is the lowest it may end at, and
  // `show` writes the current value.
  constructor(options, listening) {
    this.#options = { maxGapS: 2.2, least: 1, marks: [], isZeroWhenIdle: false, ...options };
    this.#listening = listening;
    this.#svg = makeSvg("svg", { class: "chart", height: HEIGHT, role: "img", "aria-label": options.title });
    const head = make("div", { class: "chart-head" }, make("h2", { text: options.title }), this.#value);
    const card = make("figure", { id: options.id, class: "card chart-card" }, head, this.#svg);
    byId("charts").append(card);
    new ResizeObserver(([{ contentRect }]) => {
      this.#width = Math.max(120, contentRect.width);
      this.draw();
    }).observe(card);
  }

  draw() {
    const { lines, title, top, least, marks, show } = this.#options;
    const end = now();
    const start = end - WINDOW_S;
    const drawn = lines.map((line) => ({
      ...line,
      runs: pieces(line.series.samples, { ...this.#options, start, end, listening: this.#listening }),
    }));
    const values = drawn.flatMap(({ runs }) => runs.flat().map(({ value }) => value));
    const scaleTop = top ?? niceTop(Math.max(least, ...values));
    const x = (time) => LEFT + ((time - start) / WINDOW_S) * (this.#width - LEFT - RIGHT);
    const y = (value) => TOP + (1 - Math.min(1, value / scaleTop)) * (HEIGHT - TOP - BOTTOM);
    this.#svg.setAttribute("viewBox", `0 0 ${this.#width} ${HEIGHT}`);
    this.#svg.replaceChildren(
      ...this.#scale(scaleTop, y),
      ...marks.map((mark) => level(y(mark()), this.#width, "chart-mark")),
      ...drawn.map(({ runs, class: kind }) => path(runs, x, y, kind)),
    );
    const text = show();
    setText(this.#value, text);
    this.#svg.setAttribute("aria-label", `${title}, now ${text}`);
  }

  #scale(top, y) {
    const nodes = [];
    for (const value of [0, top / 2, top]) {
      nodes.push(level(y(value), this.#width, "chart-grid"));
      nodes.push(makeSvg("text", { x: LEFT - 5, y: y(value) + 3.5, class: "chart-tick end", text: short(value) }));
    }
    const foot = { y: HEIGHT - 2, class: "chart-tick" };
    nodes.push(makeSvg("text", { ...foot, x: LEFT, text: "2 min ago" }));
    nodes.push(makeSvg("text", { ...foot, x: this.#width - RIGHT, class: "chart-tick end", text: "now" }));
    return nodes;
  }
}

function level(y, width, kind) {
  return makeSvg("line", { x1: LEFT, x2: width - RIGHT, y1: y, y2: y, class: kind });
}

// A round cap makes a dot of a run that is one sample long.
function path(runs, x, y, kind) {
  const point = ({ time, value }) => `${Math.max(LEFT, x(time)).toFixed(1)} ${y(value).toFixed(1)}`;
  const text = runs.map((run) => `M${run.map(point).join("L")}${run.length === 1 ? "h0.01" : ""}`);
  return makeSvg("path", { d: text.join(""), class: `chart-line ${kind}`, "data-runs": runs.length });
}

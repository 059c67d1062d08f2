// Small helpers for building the page and for writing numbers. Data only ever becomes text: nothing
// here parses markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

// An element with attributes and children; "text", "class" and "on..." mean what they say.
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function makeSvg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (typeof value === "boolean") node.toggleAttribute(name, value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// Writing the same text again would end a selection and wake screen readers.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setHidden(node, isHidden) {
  if (node.hidden !== isHidden) node.hidden = isHidden;
}

// Makes a list's children match `items`, keeping the element of each key, so that focus and
// selection survive a refresh. `create(item)` makes an element, `update(element, item)` fills it.
export function keyed(container, items, { key, create, update }) {
  const old = new Map([...container.children].map((node) => [node.dataset.key, node]));
  let place = container.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let node = old.get(name);
    old.delete(name);
    if (!node) {
      node = create(item);
      node.dataset.key = name;
    }
    if (node === place) place = place.nextElementSibling;
    else container.insertBefore(node, place);
    update(node, item);
  }
  for (const node of old.values()) node.remove();
}

// Cells of a table row; the label is shown beside the value on narrow screens.
export function row(labels) {
  return make("tr", {}, ...labels.map(([label, kind]) => make("td", { "data-label": label, class: kind })));
}

export const gigabytes = (value) =>
  value === null || value === undefined ? "–" : `${value.toFixed(value < 10 ? 2 : 1)} GB`;

export function bytes(count) {
  if (!Number.isFinite(count) || count < 0) return "–";
  if (count < 1e3) return `${count} B`;
  const units = ["kB", "MB", "GB", "TB"];
  const step = Math.min(units.length, Math.floor(Math.log10(Math.max(count, 1)) / 3)) - 1;
  const value = count / 1000 ** (step + 1);
  return `${value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ${units[step]}`;
}

export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  const whole = Math.max(0, seconds);
  if (whole > 0 && whole < 1) return `${Math.round(whole * 1000)} ms`;
  if (whole < 10) return `${whole.toFixed(1)} s`;
  if (whole < 60) return `${Math.round(whole)} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${Math.floor(whole % 60)} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

// Three digits are as many as anybody reads at a glance.
export function short(value) {
  if (!Number.isFinite(value)) return "–";
  if (value >= 10000) return `${(value / 1000).toFixed(value < 100000 ? 1 : 0)}k`;
  return String(Number(value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)));
}

export const clockTime = (epochSeconds) =>
  new Date(epochSeconds * 1000).toLocaleTimeString([], { hour12: false });

// What a skill answered: a text as it is, anything else as JSON.
export const outputText = (output) => (typeof output === "string" ? output : JSON.stringify(output, null, 2));

// How a call of a skill ended, in a word or two.
export function written({ ok: isOk, timed_out: isLate, denied: isDenied, requires_approval: isAsked }) {
  if (isOk) return "ok";
  if (isAsked) return "needs approval";
  return isLate ? "timed out" : isDenied ? "denied" : "failed";
}

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

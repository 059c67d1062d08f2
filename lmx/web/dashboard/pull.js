// Downloads of models: a form to start one, and a bar for each. Shown only by servers that have
// the route.

import { ApiError, ask, explain, isExpected } from "./api.js";
import { byId, bytes, keyed, make, setHidden, setText } from "./dom.js";

const DOWNLOAD_PATH = "/admin/models/download";
const NOT_FOUND = 404;
const MEASURED_S = 1; // a speed over less time than that jumps
const ENDED = new Set(["completed", "failed", "cancelled"]);

export class Pulls {
  #pulls = new Map(); // by id, the latest first when shown
  #failures = 0;
  #onNew;
  #onDone;

  // `onNew` hears of every download that begins to be shown, `onDone` of those that ended.
  constructor({ onNew, onDone }) {
    this.#onNew = onNew;
    this.#onDone = onDone;
    setHidden(byId("pull-form"), false);
    byId("pull-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const input = byId("pull-name");
      if (input.value.trim()) this.start(input.value.trim());
      input.value = "";
    });
  }

  get isBusy() {
    return [...this.#pulls.values()].some(({ status }) => !ENDED.has(status));
  }

  async start(repository) {
    // The same attempt again puts the end of the last one away.
    for (const [id, { repo_id: name, status }] of this.#pulls)
      if (name === repository && ENDED.has(status)) this.#pulls.delete(id);
    try {
      this.take(await ask(DOWNLOAD_PATH, { method: "POST", body: { repo_id: repository } }));
    } catch (error) {
      if (!isExpected(error)) throw error;
      this.#failures += 1;
      const id = `refused ${this.#failures}`;
      this.take({ download_id: id, repo_id: repository, status: "failed", error: explain(error) });
    }
  }

  // News of a download, from an answer or an event.
  take(news) {
    const before = this.#pulls.get(news.download_id);
    const pull = { ...before, ...news };
    this.#pulls.set(news.download_id, measured(pull, before));
    if (ENDED.has(pull.status) && before && !ENDED.has(before.status)) this.#onDone();
    this.#draw();
    if (!before) this.#onNew();
  }

  // Those that were there before this page was.
  async list() {
    const { downloads } = await ask("/admin/models/downloads");
    for (const pull of downloads.reverse()) this.take(pull);
  }

  async refresh() {
    for (const [id, { status }] of this.#pulls) {
      if (ENDED.has(status)) continue;
      try {
        this.take(await ask(`${DOWNLOAD_PATH}/${encodeURIComponent(id)}/progress`));
      } catch (error) {
        if (!(error instanceof ApiError && error.status === NOT_FOUND)) throw error;
        this.#dismiss(id); // somebody has deleted what there was of it
      }
    }
  }

  async #cancel(id) {
    try {
      this.take(await ask(`${DOWNLOAD_PATH}/${encodeURIComponent(id)}/cancel`, { method: "POST" }));
    } catch (error) {
      if (!isExpected(error)) throw error;
      this.take({ download_id: id, error: explain(error) });
    }
  }

  #dismiss(id) {
    this.#pulls.delete(id);
    this.#draw();
  }

  #draw() {
    keyed(byId("pulls"), [...this.#pulls.values()].reverse(), {
      key: ({ download_id: id }) => id,
      create: ({ download_id: id }) => this.#create(id),
      update: updatePull,
    });
  }

  #create(id) {
    return make("li", {}, make("span", { class: "activity-text" }), make("progress", { max: 100 }),
      make("button", { type: "button", text: "Cancel", onclick: () => this.#cancel(id) }),
      make("button", { type: "button", text: "Dismiss", onclick: () => this.#dismiss(id) }));
  }
}

// A download with its speed, from news that are far enough apart.
function measured(pull, before) {
  const now = { at: performance.now() / 1000, bytes: pull.downloaded_bytes };
  const since = before?.since ?? now;
  if (!Number.isFinite(since.bytes)) return { ...pull, since: now };
  if (now.at - since.at < MEASURED_S) return { ...pull, since };
  return { ...pull, since: now, speed: Math.max(0, now.bytes - since.bytes) / (now.at - since.at) };
}

function updatePull(node, pull) {
  const [line, progress, cancel, dismiss] = node.children;
  const isOver = ENDED.has(pull.status);
  node.dataset.state = { completed: "done", failed: "failed", cancelled: "failed" }[pull.status] ?? "running";
  setText(line, `${pull.repo_id}: ${describe(pull, isOver)}`);
  progress.setAttribute("aria-label", `Download of ${pull.repo_id}`);
  if (pull.total_bytes > 0) progress.value = pull.progress_percent;
  else progress.removeAttribute("value");
  setHidden(progress, isOver);
  setHidden(cancel, isOver);
  setHidden(dismiss, !isOver);
}

function describe(pull, isOver) {
  const status = pull.error_code === "cancelled" ? "cancelled" : pull.status;
  const parts = [status];
  if (pull.error && status !== "cancelled") parts.push(pull.error);
  const whole = pull.total_bytes ?? pull.estimated_size_bytes;
  if (pull.downloaded_bytes === undefined && whole && !isOver) parts.push(bytes(whole));
  if (pull.downloaded_bytes !== undefined && !isOver)
    parts.push(`${Math.floor(pull.progress_percent)} %`, `${bytes(pull.downloaded_bytes)} of ${bytes(whole)}`);
  if (pull.files_total && !isOver) parts.push(`${pull.files_completed} of ${pull.files_total} files`);
  if (pull.speed && !isOver) parts.push(`${bytes(pull.speed)}/s`);
  if (pull.status === "completed" && whole) parts.push(bytes(whole));
  return parts.join(", ");
}

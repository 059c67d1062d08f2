// The server's events, read from a fetched stream, so that the key can be a header. Reconnects by
// itself, each time after a longer pause, and tells the server the last event it has seen.
//
// States: connecting, live, reconnecting (the stream ended), offline (nobody answers), paused (the
// page has been hidden for a while), locked (a key is missing).

import { access, isExpected, readEvents, request, Unreachable } from "./api.js";
import { now, observe, toLocal } from "./clock.js";
import { EventParser } from "./sse.js";

const FIRST_PAUSE_S = 1;
const LONGEST_PAUSE_S = 30;
const SILENCE_LIMIT_MS = 90_000; // the server is heard every 30 s
const HIDDEN_LIMIT_MS = 60_000; // a browser has few connections per server for all of its tabs
// Sent named and unnamed, for clients that hear only the one or the other.
const SENT_TWICE = new Set(["heartbeat", "memory_warning", "memory_critical"]);

export class EventStream extends EventTarget {
  state = "connecting";
  retryAt = 0; // in our seconds, while reconnecting or offline
  #parser = new EventParser();
  #pauseS = FIRST_PAUSE_S;
  #abort = new AbortController();
  #isAsleep = false; // nobody has looked for a while
  #wake = () => {};

  constructor() {
    super();
    let hiddenTimer = 0;
    document.addEventListener("visibilitychange", () => {
      clearTimeout(hiddenTimer);
      if (document.hidden) hiddenTimer = setTimeout(() => this.#sleep(), HIDDEN_LIMIT_MS);
      else if (this.#isAsleep) this.retryNow();
    });
    window.addEventListener("online", () => this.retryNow());
    access.addEventListener("unlocked", () => this.retryNow());
    access.addEventListener("forgotten", () => this.#abort.abort());
  }

  // `listener` gets the event's fields and its time in our seconds.
  on(types, listener) {
    for (const type of types.split(" "))
      this.addEventListener(`event:${type}`, ({ detail }) => listener(detail.fields, detail.time));
  }

  retryNow() {
    this.#isAsleep = false;
    this.#pauseS = FIRST_PAUSE_S;
    this.#wake();
  }

  async run() {
    for (;;) {
      if (this.#isAsleep) await this.#waitIn("paused", Infinity);
      const failure = await this.#readUntilEnd();
      if (this.#isAsleep) continue;
      if (access.isLocked) await this.#waitIn("locked", Infinity);
      else {
        const isAway = failure instanceof Unreachable || !navigator.onLine;
        const wasLive = this.state === "live";
        // The first attempt after a stream that was fine tells whether anybody is there.
        await this.#waitIn(isAway && !wasLive ? "offline" : "reconnecting", this.#pauseS);
        this.#pauseS = Math.min(LONGEST_PAUSE_S, this.#pauseS * 2);
      }
    }
  }

  #sleep() {
    this.#isAsleep = true;
    this.#abort.abort();
    this.#wake();
  }

  #setState(state) {
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }

  async #waitIn(state, pauseS) {
    this.retryAt = now() + pauseS;
    this.#setState(state);
    let timer = 0;
    await new Promise((resolve) => {
      this.#wake = resolve;
      if (pauseS !== Infinity) timer = setTimeout(resolve, pauseS * 1000);
    });
    clearTimeout(timer);
    this.#wake = () => {};
  }

  // Returns what ended the stream; null if it simply ended.
  async #readUntilEnd() {
    this.#abort = new AbortController();
    let silence = 0;
    const listen = () => {
      clearTimeout(silence);
      silence = setTimeout(() => this.#abort.abort(), SILENCE_LIMIT_MS);
    };
    const headers = { accept: "text/event-stream" };
    if (this.#parser.lastId) headers["last-event-id"] = this.#parser.lastId;
    listen();
    try {
      const response = await request("/admin/events", { headers, signal: this.#abort.signal });
      this.#setState("live");
      const { lastId } = this.#parser;
      this.#parser = new EventParser(); // half an event of the stream before is no part of this one
      this.#parser.lastId = lastId;
      for await (const event of readEvents(response, this.#parser, listen)) this.#tell(event);
      return null;
    } catch (error) {
      if (!isExpected(error) && error.name !== "AbortError") throw error;
      return error;
    } finally {
      clearTimeout(silence);
    }
  }

  #tell({ type, data }) {
    let fields = null;
    try {
      fields = JSON.parse(data);
    } catch {
      return;
    }
    this.#pauseS = FIRST_PAUSE_S;
    const kind = fields?.type ?? type;
    if (type === "message" && SENT_TWICE.has(kind)) return;
    if (Number.isFinite(fields.ts)) observe(fields.ts);
    const time = Number.isFinite(fields.ts) ? toLocal(fields.ts) : now();
    this.dispatchEvent(new CustomEvent(`event:${kind}`, { detail: { fields, time } }));
  }
}

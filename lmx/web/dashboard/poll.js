// Repeats a question while somebody looks: not while the page is hidden, not while a key is
// missing, and never twice at once.

import { access, isExpected } from "./api.js";

const SOON_MS = 1000; // events come in bursts, and one answer serves them all

export class Poll {
  #task;
  #periodMs;
  #isWanted;
  #timer = 0;
  #isRunning = false;
  #isAsked = false;
  #lastMs = -Infinity;

  // `periodMs` is a number or a function, asked again each time.
  constructor(task, periodMs, isWanted = () => true) {
    this.#task = task;
    this.#periodMs = typeof periodMs === "function" ? periodMs : () => periodMs;
    this.#isWanted = isWanted;
    document.addEventListener("visibilitychange", () => this.soon());
    access.addEventListener("unlocked", () => this.soon());
  }

  start() {
    this.#run();
  }

  // Asks at once, or as soon as the last answer is a second old.
  soon() {
    if (this.#isRunning) {
      this.#isAsked = true;
      return;
    }
    this.#plan(Math.max(0, this.#lastMs + SOON_MS - performance.now()));
  }

  #plan(delayMs) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#run(), delayMs);
  }

  async #run() {
    if (this.#isRunning) return;
    // `soon` wakes it again when the page is shown, unlocked or the panel opened.
    if (document.hidden || access.isLocked || !this.#isWanted()) return;
    this.#isRunning = true;
    this.#isAsked = false;
    try {
      await this.#task();
    } catch (error) {
      if (!isExpected(error)) throw error; // the header says whether the server is there
    } finally {
      this.#isRunning = false;
      this.#lastMs = performance.now();
      this.#plan(this.#isAsked ? SOON_MS : this.#periodMs());
    }
  }
}

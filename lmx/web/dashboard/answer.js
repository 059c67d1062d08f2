// An answer as it grows, with what it took. With skills it may have several parts, each of them a
// request: one ends where a call waits for a decision.

import { duration, short } from "./dom.js";

export class Answer {
  text = ""; // of this part
  isFailed = false;
  #bubble;
  #startedMs = performance.now();
  #firstMs = 0;
  #lastMs = 0;
  #counts = null;
  #ending = "";
  #hasCalled = false;
  #waiting = []; // calls without a decision
  #messages = null;

  constructor(bubble) {
    this.#bubble = bubble;
  }

  get isOver() {
    return this.#ending !== "";
  }

  get isWaiting() {
    return this.#waiting.length > 0;
  }

  // What this part adds to the conversation.
  get messages() {
    return this.#messages ?? (this.text ? [{ role: "assistant", content: this.text }] : []);
  }

  take(chunk) {
    if (chunk.error) {
      this.fail(`${chunk.error.message} (${chunk.error.code})`);
      return;
    }
    if (chunk.usage) this.#count(chunk.usage);
    if (chunk.skill_messages) this.#messages = chunk.skill_messages;
    if (chunk.skill_event) this.#hearOfCall(chunk.skill_event);
    for (const { delta, finish_reason: reason } of chunk.choices ?? []) {
      if (delta?.reasoning_content) this.#hear(() => this.#bubble.think(delta.reasoning_content));
      if (delta?.content) {
        this.text += delta.content;
        this.#hear(() => this.#bubble.say(delta.content));
      }
      if (reason) this.#ending ||= reason;
    }
  }

  // What somebody decides of the calls that wait, by id. Rejects when the signal says so.
  async decide(signal) {
    const waiting = this.#waiting;
    const decided = await Promise.all(waiting.map((call) => this.#bubble.decide(call, signal)));
    return Object.fromEntries(waiting.map(({ call_id: id }, index) => [id, decided[index]]));
  }

  beginNextPart() {
    this.text = "";
    this.#ending = "";
    this.#waiting = [];
    this.#messages = null;
  }

  stop() {
    if (!this.isOver || this.isWaiting) this.#ending = "stopped by you";
    this.isFailed = true;
  }

  fail(message) {
    this.#ending ||= "failed";
    this.isFailed = true;
    this.#bubble.complain(message);
  }

  // Counts and speed, for a person.
  summary() {
    const parts = [];
    const seconds = (this.#lastMs - this.#firstMs) / 1000;
    const made = this.#counts?.completion;
    if (this.#counts) parts.push(`${this.#counts.prompt} + ${made} tokens`);
    // The first token comes with the prompt's end; the others took the time after it. Where skills
    // ran, that time was not the model's alone.
    if (made > 1 && seconds > 0 && !this.#hasCalled) parts.push(`${short((made - 1) / seconds)} tokens/s`);
    if (this.#firstMs) parts.push(`first text after ${duration((this.#firstMs - this.#startedMs) / 1000)}`);
    if (this.#ending) parts.push(this.#ending);
    return parts.join(" · ");
  }

  #count({ prompt_tokens: prompt, completion_tokens: completion }) {
    const before = this.#counts ?? { prompt: 0, completion: 0 };
    this.#counts = { prompt: before.prompt + prompt, completion: before.completion + completion };
  }

  #hear(show) {
    this.#lastMs = performance.now();
    this.#firstMs ||= this.#lastMs;
    show();
  }

  #hearOfCall(event) {
    this.#hasCalled = true;
    if (event.type === "skill.approval") this.#waiting.push(event);
    this.#bubble.tell(event);
  }
}

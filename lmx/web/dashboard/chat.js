// A small chat box: it picks a loaded model, streams its answer, and can stop it.

import { explain, isExpected, readEvents, request } from "./api.js";
import { byId, duration, keyed, make, setHidden, setText, short } from "./dom.js";

const KEPT_MESSAGES = 20;
const DONE = "[DONE]";

export class Chat {
  #messages = [];
  #abort = null;

  constructor() {
    byId("chat-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    byId("chat-text").addEventListener("keydown", (event) => {
      // Enter also ends the composition of a character in some scripts.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#send();
    });
    byId("chat-stop").addEventListener("click", () => this.#abort?.abort());
    byId("chat-clear").addEventListener("click", () => this.#clear());
  }

  setModels(ids) {
    const select = byId("chat-model");
    keyed(select, ids.length ? ids : [""], {
      key: (id) => id,
      create: (id) => make("option", { value: id, text: id || "no model is loaded" }),
      update: () => {},
    });
    select.disabled = ids.length === 0;
    byId("chat-send").disabled = ids.length === 0 || this.#abort !== null;
  }

  #clear() {
    this.#abort?.abort();
    this.#messages = [];
    byId("chat-log").replaceChildren();
    setText(byId("chat-usage"), "");
  }

  async #send() {
    const text = byId("chat-text").value.trim();
    const model = byId("chat-model").value;
    if (!text || !model || this.#abort) return;
    byId("chat-text").value = "";
    setText(byId("chat-usage"), "");
    this.#remember({ role: "user", content: text });
    bubble("user").say(text);
    const answer = new Answer(bubble("assistant"));
    this.#setRunning(new AbortController());
    try {
      await this.#stream(model, answer);
    } catch (error) {
      if (error.name === "AbortError") answer.stop();
      else if (isExpected(error)) answer.fail(explain(error));
      else throw error;
    } finally {
      this.#setRunning(null);
      setText(byId("chat-usage"), answer.summary());
    }
    if (answer.text) this.#remember({ role: "assistant", content: answer.text });
  }

  async #stream(model, answer) {
    const body = { model, messages: this.#messages, stream: true, stream_options: { include_usage: true } };
    const { signal } = this.#abort;
    const response = await request("/v1/chat/completions", { method: "POST", body, signal });
    for await (const { data } of readEvents(response)) {
      if (data === DONE) return;
      answer.take(JSON.parse(data));
    }
    if (!answer.isOver) answer.fail("the stream ended before the answer did");
  }

  #remember(message) {
    this.#messages.push(message);
    this.#messages = this.#messages.slice(-KEPT_MESSAGES);
  }

  #setRunning(abort) {
    this.#abort = abort;
    setHidden(byId("chat-stop"), abort === null);
    byId("chat-send").disabled = abort !== null || byId("chat-model").disabled;
    byId("chat-log").setAttribute("aria-busy", String(abort !== null));
  }
}

// An answer as it grows, with what it took.
class Answer {
  text = "";
  isOver = false;
  #bubble;
  #startedMs = performance.now();
  #firstMs = 0;
  #lastMs = 0;
  #usage = null;
  #ending = "";

  constructor(shown) {
    this.#bubble = shown;
  }

  take(chunk) {
    if (chunk.error) {
      this.fail(`${chunk.error.message} (${chunk.error.code})`);
      return;
    }
    if (chunk.usage) this.#usage = chunk.usage;
    for (const { delta, finish_reason: reason } of chunk.choices ?? []) {
      if (delta?.reasoning_content) this.#hear(() => this.#bubble.think(delta.reasoning_content));
      if (delta?.content) {
        this.text += delta.content;
        this.#hear(() => this.#bubble.say(delta.content));
      }
      if (reason) this.#end(reason);
    }
  }

  stop() {
    this.#end("stopped by you");
  }

  fail(message) {
    this.#end("failed");
    this.#bubble.complain(message);
  }

  // Counts and speed, for a person.
  summary() {
    const parts = [];
    const seconds = (this.#lastMs - this.#firstMs) / 1000;
    const count = this.#usage?.completion_tokens;
    if (this.#usage) parts.push(`${this.#usage.prompt_tokens} + ${count} tokens`);
    // The first token comes with the prompt's end; the others took the time after it.
    if (count > 1 && seconds > 0) parts.push(`${short((count - 1) / seconds)} tokens/s`);
    if (this.#firstMs) parts.push(`first text after ${duration((this.#firstMs - this.#startedMs) / 1000)}`);
    if (this.#ending) parts.push(this.#ending);
    return parts.join(" · ");
  }

  #hear(show) {
    this.#lastMs = performance.now();
    this.#firstMs ||= this.#lastMs;
    show();
  }

  #end(reason) {
    this.isOver = true;
    this.#ending ||= reason;
  }
}

// A message in the conversation; it follows its end unless somebody has scrolled up.
function bubble(role) {
  const list = byId("chat-log");
  const thought = make("p", { class: "thought muted small", hidden: true });
  const said = make("p", { class: "said" });
  const item = make("li", { class: `bubble ${role}` }, make("span", { class: "hidden-label", text: `${role}: ` }), thought, said);
  const grow = (node, text) => {
    const isAtEnd = list.scrollTop + list.clientHeight >= list.scrollHeight - 30;
    setHidden(node, false);
    node.append(text);
    if (isAtEnd) list.scrollTop = list.scrollHeight;
  };
  list.append(item);
  list.scrollTop = list.scrollHeight;
  return {
    say: (text) => grow(said, text),
    think: (text) => grow(thought, text),
    complain: (text) => {
      item.append(make("p", { class: "error", role: "alert", text }));
      list.scrollTop = list.scrollHeight;
    },
  };
}

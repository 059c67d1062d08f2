// A small chat box: it picks a model or a preset, offers it skills, streams its answer, and can
// stop it.

import { explain, isExpected, readEvents, request } from "./api.js";
import { Answer } from "./answer.js";
import { Bubble } from "./bubble.js";
import { byId, keyed, make, setHidden, setText } from "./dom.js";

const KEPT_MESSAGES = 20;
const DONE = "[DONE]";

export class Chat {
  #messages = []; // another list once the conversation was cleared
  #abort = null;
  #models = [];
  #presets = [];

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
    byId("chat-skill-list").addEventListener("change", () => this.#countSkills());
  }

  setModels(ids) {
    this.#models = ids.map((id) => ({ id, text: id }));
    this.#drawModels();
  }

  setPresets(presets) {
    this.#presets = presets.map(({ name, model }) => ({ id: `preset:${name}`, text: `preset:${name} (${model})` }));
    this.#drawModels();
  }

  setSkills(skills) {
    keyed(byId("chat-skill-list"), skills, {
      key: ({ qualified_name: name }) => name,
      create: ({ qualified_name: name, name: text }) => make("li", {},
        make("label", { class: "check" }, make("input", { type: "checkbox", value: name }), make("span", { text }))),
      update: (node, { description }) => {
        node.title = description;
      },
    });
    this.#countSkills();
  }

  #drawModels() {
    const select = byId("chat-model");
    const choices = [...this.#models, ...this.#presets];
    keyed(select, choices.length ? choices : [{ id: "", text: "no model is loaded" }], {
      key: ({ id }) => id,
      create: ({ id }) => make("option", { value: id }),
      update: (node, { text }) => setText(node, text),
    });
    select.disabled = choices.length === 0;
    byId("chat-send").disabled = select.disabled || this.#abort !== null;
  }

  #offered() {
    return [...byId("chat-skill-list").querySelectorAll("input:checked")].map(({ value }) => value);
  }

  #countSkills() {
    const count = this.#offered().length;
    setText(byId("chat-skills-count"), count ? `(${count} offered)` : "");
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
    const messages = this.#messages;
    messages.push({ role: "user", content: text });
    new Bubble("user").say(text);
    const answer = new Answer(new Bubble("assistant"));
    const skills = this.#offered();
    this.#setRunning(new AbortController());
    try {
      await this.#converse({ model, ...(skills.length && { skills }) }, messages, answer);
    } catch (error) {
      if (error.name === "AbortError") answer.stop();
      else if (isExpected(error)) answer.fail(explain(error));
      else throw error;
    } finally {
      this.#setRunning(null);
    }
    if (answer.isFailed) forgetTurn(messages, answer.text);
    if (messages === this.#messages) setText(byId("chat-usage"), answer.summary());
  }

  // Until the answer is whole, or has failed: calls that wait for a decision are decided in between.
  async #converse(fields, messages, answer) {
    const { signal } = this.#abort;
    for (let decisions = {}; ; ) {
      await stream({ ...fields, ...decisions, messages: latest(messages) }, answer, signal);
      if (answer.isFailed) return;
      messages.push(...answer.messages);
      if (!answer.isWaiting) return;
      setText(byId("chat-usage"), "waits for your decision");
      decisions = { skill_approvals: await answer.decide(signal) };
      setText(byId("chat-usage"), "");
      answer.beginNextPart();
    }
  }

  #setRunning(abort) {
    this.#abort = abort;
    setHidden(byId("chat-stop"), abort === null);
    byId("chat-send").disabled = abort !== null || byId("chat-model").disabled;
    byId("chat-log").setAttribute("aria-busy", String(abort !== null));
  }
}

// One request, to its end.
async function stream(fields, answer, signal) {
  const body = { ...fields, stream: true, stream_options: { include_usage: true } };
  const response = await request("/v1/chat/completions", { method: "POST", body, signal });
  for await (const { data } of readEvents(response)) {
    if (data === DONE) return;
    answer.take(JSON.parse(data));
  }
  if (!answer.isOver) answer.fail("the stream ended before the answer did");
}

const isUser = ({ role }) => role === "user";

// The end of the conversation, from a question on: a skill's result without its call is refused.
function latest(messages) {
  const start = Math.max(0, messages.length - KEPT_MESSAGES);
  const after = messages.findIndex((message, index) => index >= start && isUser(message));
  return messages.slice(after < 0 ? messages.findLastIndex(isUser) : after);
}

// Of an answer that broke off, its text is kept and no calls, which may be without results.
function forgetTurn(messages, text) {
  messages.length = messages.findLastIndex(isUser) + 1;
  if (text) messages.push({ role: "assistant", content: text });
}

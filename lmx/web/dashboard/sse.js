// Reads a stream of server-sent events, as the HTML standard's "Interpreting an event stream"
// says. Knows no network: text goes in as it comes, whole events come out.

export class EventParser {
  #held = "";
  #hadReturn = false;
  #data = [];
  #type = "";
  lastId = "";

  // The events that are complete now: { type, data, id }.
  feed(text) {
    const events = [];
    this.#held += text;
    for (;;) {
      // A line may end with CR, LF or both, and a CR at the very end may have its LF yet to come.
      if (this.#hadReturn && this.#held.startsWith("\n")) this.#held = this.#held.slice(1);
      if (this.#held) this.#hadReturn = false;
      const end = this.#held.search(/[\r\n]/);
      if (end < 0) return events;
      const line = this.#held.slice(0, end);
      this.#hadReturn = this.#held[end] === "\r";
      this.#held = this.#held.slice(end + 1);
      const event = line === "" ? this.#dispatch() : this.#take(line);
      if (event) events.push(event);
    }
  }

  #dispatch() {
    const event = { type: this.#type || "message", data: this.#data.join("\n"), id: this.lastId };
    const isEmpty = this.#data.length === 0;
    this.#data = [];
    this.#type = "";
    return isEmpty ? null : event;
  }

  #take(line) {
    const colon = line.indexOf(":");
    if (colon === 0) return null; // a comment
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#type = value;
    else if (field === "id" && !value.includes("\0")) this.lastId = value;
    return null;
  }
}

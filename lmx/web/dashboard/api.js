// Every request to the server. The admin key, where there is one, goes along as a header and never
// stands in an address; when the server asks for one, `access` says so and nobody polls until it is
// given.

import { EventParser } from "./sse.js";

const STORAGE_NAME = "lmx-admin-key";

export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

// Nobody answers, or the connection broke.
export class Unreachable extends Error {}

// Tells "locked" when a key is needed and "unlocked" when one was given.
class Access extends EventTarget {
  isLocked = false;
  refusedPath = "";
  #key = stored("sessionStorage") ?? stored("localStorage") ?? "";

  get key() {
    return this.#key;
  }

  lock(path) {
    this.refusedPath = path;
    if (this.isLocked) return;
    this.isLocked = true;
    this.dispatchEvent(new Event("locked"));
  }

  // Why the server does not take a key; empty if it does: then it is kept and everybody goes on.
  async unlock(key, { remember }) {
    // The list of models asks for the key of the answers, the rest for the administrator's.
    const path = this.refusedPath.startsWith("/v1/") ? "/v1/models" : "/admin/status";
    const response = await fetchHead(path, { headers: keyHeaders(key, path) });
    const { code, message } = await readError(response);
    if (needsKey(response.status, code)) return message;
    this.#key = key;
    this.#store(remember);
    this.isLocked = false;
    this.dispatchEvent(new Event("unlocked"));
    return "";
  }

  forget() {
    this.#key = "";
    this.#store(false);
    this.dispatchEvent(new Event("forgotten"));
  }

  #store(remember) {
    for (const [name, isMeant] of [["sessionStorage", !remember], ["localStorage", remember]]) {
      if (this.#key && isMeant) storage(name)?.setItem(STORAGE_NAME, this.#key);
      else storage(name)?.removeItem(STORAGE_NAME);
    }
  }
}

// Browsers that keep nothing for a page throw when asked for its storage.
function storage(name) {
  try {
    return window[name];
  } catch {
    return null;
  }
}

const stored = (name) => storage(name)?.getItem(STORAGE_NAME) ?? null;

export const access = new Access();

// On a server that has a key for answers alone, this is that one.
function keyHeaders(key, path) {
  if (!key) return {};
  return path.startsWith("/v1/") ? { "x-admin-key": key, "x-api-key": key } : { "x-admin-key": key };
}

// Aborting is the page's own doing and stays what it is.
const asUnreachable = (error, message) => (error.name === "AbortError" ? error : new Unreachable(message));

async function fetchHead(path, options) {
  try {
    return await fetch(path, { cache: "no-store", ...options });
  } catch (error) {
    throw asUnreachable(error, "the server cannot be reached");
  }
}

function needsKey(status, code) {
  return status === 401 || (status === 403 && code === "unauthorized");
}

async function readError(response) {
  let document_ = null;
  try {
    document_ = await response.json();
  } catch {
    // Not ours: a proxy's page, or nothing at all.
  }
  const message = document_?.error?.message ?? `the server answered ${response.status}`;
  return { code: document_?.code ?? document_?.error?.code ?? "", message };
}

// The response, once its head is there. Throws ApiError for a refusal.
export async function request(path, { method = "GET", body, signal, headers = {} } = {}) {
  const all = { accept: "application/json", ...keyHeaders(access.key, path), ...headers };
  if (body !== undefined) all["content-type"] = "application/json";
  const text = body === undefined ? undefined : JSON.stringify(body);
  const response = await fetchHead(path, { method, body: text, signal, headers: all });
  if (response.ok) return response;
  const { code, message } = await readError(response);
  if (needsKey(response.status, code)) access.lock(path);
  throw new ApiError(response.status, code, message);
}

// The answer's document.
export async function ask(path, options) {
  const response = await request(path, options);
  try {
    return await response.json();
  } catch (error) {
    throw asUnreachable(error, "the answer did not come whole");
  }
}

// The events of a response; ends when the stream does. `onBytes` hears of every arrival.
export async function* readEvents(response, parser = new EventParser(), onBytes = () => {}) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      onBytes();
      yield* parser.feed(value);
    }
  } catch (error) {
    throw asUnreachable(error, "the connection was lost");
  } finally {
    reader.cancel().catch(() => {});
  }
}

// Whether an error is the server's or the network's, and so no fault of this page.
export const isExpected = (error) => error instanceof ApiError || error instanceof Unreachable;

// What went wrong, for a person.
export function explain(error) {
  if (!(error instanceof ApiError)) return String(error.message ?? error);
  return `${error.message} (${[error.status, error.code].filter(Boolean).join(" ")})`;
}

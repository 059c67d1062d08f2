// Puts the page together: which part asks for what, and which event makes it ask again.

import { access, ask, explain, isExpected } from "./api.js";
import { Chat } from "./chat.js";
import { now } from "./clock.js";
import { byId, duration, plural, setHidden, setText } from "./dom.js";
import { EventStream } from "./events.js";
import { Exits } from "./exits.js";
import { watchKey } from "./key.js";
import { Log } from "./log.js";
import { Measures } from "./measures.js";
import { MemoryBar } from "./memory.js";
import { Models } from "./models.js";
import { Poll } from "./poll.js";
import { Pulls } from "./pull.js";
import { Requests } from "./requests.js";
import { Runs, Skills } from "./skills.js";

// All of them together ask about once a second while nothing happens.
const PERIODS_MS = { status: 10_000, models: 5_000, memory: 5_000, disk: 30_000, requests: 2_000, log: 3_000, loading: 2_000, pulls: 1_500, skills: 10_000, presets: 30_000 };
const NOTICE_S = 60;

async function start() {
  watchKey();
  const stream = new EventStream();
  showConnection(stream);
  showNotices(stream);
  const exits = new Exits();
  stream.on("worker_exited", (fields) => exits.take(fields));
  const chat = new Chat();
  const refreshAlways = showState(stream, chat);
  stream.addEventListener("state", () => {
    if (stream.state === "live") refreshAlways();
  });
  // Whoever listens does so by now: what is told first must not be missed.
  await Promise.all([stream.run(), showWhatIsServed(stream, exits, chat)]);
}

// What every server has. Returns what asks for all of it again.
function showState(stream, chat) {
  const memory = new MemoryBar(new Measures(stream));
  const models = new Models({
    onLists: () => chat.setModels(models.loadedIds),
    onDownload: (news) => document.dispatchEvent(new CustomEvent("download", { detail: news })),
  });
  const status = new Poll(showStatus, PERIODS_MS.status);
  const lists = new Poll(() => models.refresh(), () => (models.isBusy ? PERIODS_MS.loading : PERIODS_MS.models));
  const bar = new Poll(() => memory.refresh(), PERIODS_MS.memory);
  const disk = new Poll(() => models.refreshDisk(), PERIODS_MS.disk);
  const all = [status, lists, bar, disk];
  for (const poll of all) poll.start();
  document.addEventListener("downloaded", () => disk.soon());
  stream.on("model_state model_loaded model_unloaded model_failed config_reloaded", () => {
    lists.soon();
    bar.soon();
  });
  stream.on("request_completed", () => status.soon());
  return () => all.forEach((poll) => poll.soon());
}

// What only some servers have: their description says so.
async function showWhatIsServed(stream, exits, chat) {
  const { paths } = await description();
  if (paths["/admin/requests"]) {
    const requests = new Requests();
    const poll = new Poll(() => requests.refresh(), PERIODS_MS.requests);
    poll.start();
    stream.on("request_received request_started request_completed", () => poll.soon());
  }
  if (paths["/admin/logs/tail"]) {
    const log = new Log(() => poll.soon());
    const poll = new Poll(() => log.refresh(), PERIODS_MS.log, () => log.isOpen);
    ignoringRefusals(exits.readLog());
    access.addEventListener("unlocked", () => ignoringRefusals(exits.readLog()));
  }
  if (paths["/admin/models/download"]) showPulls(stream, paths);
  if (paths["/v1/skills"]) showSkills(stream, chat);
  if (paths["/admin/presets"]) {
    const presets = new Poll(async () => chat.setPresets((await ask("/admin/presets")).presets), PERIODS_MS.presets);
    presets.start();
  }
}

// The list is asked for while somebody looks at it: it may need a key that nothing else needs.
function showSkills(stream, chat) {
  const skills = new Skills({ onOpen: () => poll.soon(), onList: (list) => chat.setSkills(list) });
  const poll = new Poll(() => skills.refresh(), PERIODS_MS.skills, () => skills.isOpen);
  const runs = new Runs();
  stream.on("skill_started skill_finished", (fields, time) => runs.take(fields, time));
  stream.on("events_missed", () => runs.forgetRunning());
  poll.soon(); // a panel may be open already
}

function showPulls(stream, paths) {
  const pulls = new Pulls({
    onNew: () => poll.soon(),
    onDone: () => document.dispatchEvent(new Event("downloaded")),
  });
  const poll = new Poll(() => pulls.refresh(), PERIODS_MS.pulls, () => pulls.isBusy);
  document.addEventListener("download", ({ detail }) => pulls.take(detail));
  stream.on("download_progress download_completed download_failed download_cancelled", (fields) => pulls.take(fields));
  if (paths["/admin/models/downloads"]) {
    ignoringRefusals(pulls.list());
    access.addEventListener("unlocked", () => ignoringRefusals(pulls.list()));
  }
}

// Asked for until it is there: a server that is not reached now may be later.
async function description() {
  for (let pauseMs = 1000; ; pauseMs = Math.min(30_000, pauseMs * 2)) {
    try {
      return await ask("/openapi.json");
    } catch (error) {
      if (!isExpected(error)) throw error;
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
  }
}

function ignoringRefusals(promise) {
  promise.catch((error) => {
    if (!isExpected(error)) throw error;
  });
}

async function showStatus() {
  const status = await ask("/admin/status");
  const waiting = status.waiting_requests ? `, ${status.waiting_requests} waiting` : "";
  setText(byId("about"),
    `${location.host} · ${status.version} · up ${duration(status.uptime_seconds)} · ` +
    `${plural(status.in_flight_requests, "request")} running${waiting}`);
}

function showConnection(stream) {
  const show = () => {
    const left = Math.max(0, Math.ceil(stream.retryAt - now()));
    const isCounting = (stream.state === "reconnecting" || stream.state === "offline") && left > 0;
    byId("connection").dataset.state = stream.state;
    setText(byId("connection-text"), stream.state === "locked" ? "key needed" : stream.state);
    byId("connection").title = isCounting ? `Next attempt in ${left} s; press to try now` : "Live events of the server";
  };
  stream.addEventListener("state", show);
  setInterval(show, 1000);
  byId("connection").addEventListener("click", () => stream.retryNow());
  show();
}

function showNotices(stream) {
  let timer = 0;
  const hide = () => setHidden(byId("notice"), true);
  byId("notice-close").addEventListener("click", hide);
  stream.on("memory_warning memory_critical", ({ message, type, model_id: model }) => {
    setText(byId("notice-text"), model ? `${message} ${model} was unloaded.` : message);
    byId("notice").dataset.level = type;
    setHidden(byId("notice"), false);
    clearTimeout(timer);
    timer = setTimeout(hide, NOTICE_S * 1000);
  });
}

start().catch((error) => {
  setText(byId("notice-text"), `This page does not work here: ${explain(error)}`);
  setHidden(byId("notice"), false);
  throw error;
});

// The page: what a call reports becomes a state, a transcript and the figures of the last turn.

import { Call, CallError, openCamera, openMicrophone } from "./call.js";
import { PARTS, TOTAL } from "./latency.js";
import { Meter } from "./meter.js";
import { Panel } from "./panel.js";
import { playback } from "./playback.js";
import { SocketCall } from "./socket-call.js";
import { Transcript } from "./transcript.js";

const STATES = {
  idle: ["Ready", "Press Connect, and speak."],
  asking: ["Waiting for the microphone", "Allow it where the browser asks."],
  connecting: ["Connecting", "Finding a way to the demo."],
  loading: ["Loading", "The bot loads its ears and its voice."],
  listening: ["Listening", "Speak whenever you like."],
  hearing: ["Listening", "Go on, I hear you."],
  thinking: ["Thinking", "The answer is being written."],
  speaking: ["Speaking", "Interrupt by speaking."],
  pausing: ["Thinking", "The rest of the answer is on its way."],
  writing: ["Writing", "Interrupt by writing."],
  moving: ["Reconnecting: the call moves to another machine.", "One moment, please."],
};

const $ = (id) => document.getElementById(id);
const transcript = new Transcript($("turns"));
let state = "idle";
let call = null;
let botSpeaks = false;
let replying = false; // the model's reply has begun, and not ended
let unsaid = false; // the voice has words that it has not spoken
let botLooks = false;
let looksLater = false; // the camera is opened when it is asked for
let botReads = false; // one may write to it
let bySocket = false;
let waits = false; // words were sent before the bot could be reached
let needsNetwork = false; // what answers is not on this machine

const OFFLINE = {
  far: "This machine has no network, and the answers come from one: connect it, or start the demo without MISTRAL_API_KEY.",
  webrtc:
    "This machine has no network. The demo needs none, but most browsers find no way to it without one: " +
    "connect to any network, or start Chromium with --allow-loopback-in-peer-connection.",
};

const SILENT = {
  blocked: "The browser has suspended the sound.",
  device: "The sound does not start: see whether this machine has a loudspeaker or headphones.",
};

/** Says before the first call what will be missing; takes it back when the network comes. */
function showNetwork() {
  const missing = bySocket ? "" : needsNetwork ? OFFLINE.far : OFFLINE.webrtc;
  if (!navigator.onLine && !call) complain(missing);
  else if (Object.values(OFFLINE).includes($("problem").textContent)) complain("");
}

function show(next) {
  state = next;
  const [name, hint] = STATES[next];
  document.body.dataset.state = next;
  if ($("state").textContent !== name) $("state").textContent = name;
  const deaf = next === "listening" && !call.hears;
  $("hint").textContent = deaf ? "Write whenever you like." : hint;
  $("connect").textContent = call ? "Disconnect" : "Connect";
  $("mute").hidden = !call?.hears || ["asking", "connecting"].includes(next);
  $("look").hidden = $("mute").hidden || $("camera").hidden;
  const reachable = call && !["asking", "connecting", "moving"].includes(next);
  $("write").hidden = !(call && (botReads || !bySocket));
  $("send").disabled = !reachable;
  if (waits && reachable) write();
}

/** Says what is written; what cannot be sent yet waits. */
function write() {
  const words = $("words").value.trim();
  waits = Boolean(words) && !call.write(words);
  if (!waits) $("words").value = "";
}

function complain(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

async function connect() {
  complain("");
  transcript.clear();
  $("empty").hidden = true;
  let microphone, camera;
  try {
    show("asking");
    $("connect").disabled = true;
    await known;
    microphone = await openMicrophone().catch((error) => {
      if (!botReads) throw error; // one can write to it instead
    });
    if (botLooks && !looksLater) camera = await openCamera().catch((error) => complain(error.message));
  } catch (error) {
    $("empty").hidden = false;
    complain(error.message);
    show("idle");
    return;
  } finally {
    $("connect").disabled = false;
  }

  const mine = (call = bySocket
    ? new SocketCall(microphone, !botReads)
    : new Call(microphone, camera, Boolean(camera) || looksLater));
  panel.begin(call);
  const meter = new Meter($("meter").children, () => (state === "speaking" ? "bot" : "user"));
  if (microphone) meter.listen("user", microphone);
  for (const track of microphone?.getAudioTracks() ?? []) {
    track.addEventListener("ended", () =>
      complain("The microphone is gone: plug it in, or allow it, then connect again."),
    );
  }
  mute(false);
  $("camera").srcObject = camera ?? null;
  $("camera").hidden = !camera;
  showLook(true);
  call.addEventListener("voice", ({ detail: stream }) => {
    playback.play($("voice"), stream);
    meter.listen("bot", stream);
  });
  call.addEventListener("message", ({ detail: message }) => {
    hear(message);
    panel.hear(message);
  });
  call.addEventListener("moving", () => {
    silence();
    transcript.pause();
    show("moving");
  });
  call.addEventListener("moved", ({ detail: { resumed, arrived, lost } }) => {
    if (resumed) transcript.resume();
    else transcript.end();
    if (arrived) {
      transcript.userSays(arrived, true);
      transcript.userEnds();
    }
    if (lost) $("words").value = `${lost} ${$("words").value}`.trim();
    show("loading");
  });
  call.addEventListener("hung-up", ({ detail: sentence }) =>
    complain(sentence ?? "The demo ended the call: connect again."),
  );
  call.addEventListener("ended", () => {
    meter.close();
    playback.play($("voice"), null);
    $("camera").srcObject = null;
    $("camera").hidden = true;
    transcript.end();
    silence();
    waits = false;
    call = null;
    panel.end();
    show("idle");
  });

  try {
    show("connecting");
    await mine.connect();
    if (call === mine && state === "connecting") show("loading");
  } catch (error) {
    if (mine.over) return;
    mine.close();
    complain(
      error instanceof CallError ? error.message : `The call failed (${error.message}): try again.`,
    );
  }
}

function mute(muted) {
  $("mute").setAttribute("aria-pressed", muted);
  $("mute").textContent = muted ? "Unmute" : "Mute";
  call.mute(muted);
}

function showLook(shown) {
  $("look").setAttribute("aria-pressed", !shown);
  $("look").textContent = shown ? "Camera off" : "Camera on";
}

/** Opens the camera in mid-call, if the bot has none yet. */
async function see() {
  if ($("camera").srcObject) return;
  const camera = await openCamera();
  await call.see(camera);
  $("camera").srcObject = camera;
  $("camera").hidden = false;
  showLook(true);
  show(state);
}

/** Nothing of the reply is still to come. */
function silence() {
  botSpeaks = replying = unsaid = false;
}

/** The bot waited for the rest of its reply; it listens if there is none. */
function restEnds() {
  if (state === "pausing" && !replying && !unsaid) show("listening");
}

/** What one RTVI message means for the state and the transcript. */
function hear({ type, data }) {
  switch (type) {
    case "bot-ready":
      return ["connecting", "loading"].includes(state) ? show("listening") : undefined;
    case "user-started-speaking":
      transcript.userBegins();
      return show("hearing");
    case "user-input":
      transcript.userSays(data.text, data.final);
      if (data.input_type !== "chat") return;
      transcript.userEnds();
      return show("thinking");
    case "user-stopped-speaking":
      transcript.userEnds();
      return show("thinking");
    case "bot-llm-started":
      replying = true;
      return ["speaking", "writing"].includes(state) ? undefined : show("thinking");
    case "bot-llm-text":
      unsaid ||= /[\p{L}\p{N}]/u.test(data.text); // a voice says nothing of a dot
      // Of a bot with a voice, the words come when they are said.
      if (!botReads || call.heard?.voiced) return;
      transcript.botWrites(data.text);
      return show("writing");
    case "bot-llm-stopped":
      replying = false;
      return state === "writing" ? show("listening") : restEnds();
    case "bot-tts-stopped":
      unsaid = false;
      return restEnds();
    case "bot-started-speaking":
      botSpeaks = true;
      return show("speaking");
    case "bot-output":
      return transcript.botSays(data);
    case "bot-stopped-speaking":
      botSpeaks = false;
      if (state !== "speaking") return;
      return show(replying || unsaid ? "pausing" : "listening");
    case "bot-interrupted":
      // Also sent when the user speaks into the bot's silence.
      if (botSpeaks) transcript.botInterrupted();
      replying = unsaid = false;
      return restEnds();
    case "server-message":
      if (data.type === "fault") transcript.cutAfter(data);
      return data.type === "latency" ? showLatency(data.seconds) : undefined;
    case "error":
      return fail(data);
  }
}

function fail({ error, fatal }) {
  transcript.problem(error);
  if (fatal) {
    complain("The call cannot go on: connect again when the problem is solved.");
    call.close();
  } else if (["thinking", "pausing"].includes(state)) show("listening");
}

const inSeconds = (value) => (value === undefined ? "—" : `${value.toFixed(2)} s`);

function showLatency(seconds) {
  for (const value of document.querySelectorAll("#parts dd")) {
    value.textContent = inSeconds(seconds[value.dataset.part]);
  }
  for (const piece of $("bar").children) {
    piece.style.flexGrow = seconds[piece.dataset.part] ?? 0;
  }
}

/** The list of parts, each with an explanation of what exactly it measures. */
function drawParts() {
  for (const { key, name, explained } of [...PARTS, TOTAL]) {
    const label = make("button", { type: "button", textContent: name });
    label.setAttribute("aria-describedby", `about-${key}`);
    const tip = make("span", { id: `about-${key}`, role: "tooltip", textContent: explained });
    const term = make("dt", {}, key);
    term.append(label, tip);
    $("parts").append(term, make("dd", { textContent: inSeconds() }, key));
    if (key !== TOTAL.key) $("bar").append(make("i", {}, key));
  }
}

function make(tag, properties, part) {
  const element = Object.assign(document.createElement(tag), properties);
  if (part) element.dataset.part = part;
  return element;
}

async function showEngine() {
  try {
    const status = await (await fetch("/api/status")).json();
    const { engine, local, camera, transport, text } = status;
    needsNetwork = local === false;
    bySocket = transport === "websocket";
    botLooks = camera && !bySocket;
    looksLater = botLooks && status.camera_on_request === true;
    panel.offer(status);
    botReads = bySocket && text === true;
    $("ask-what-it-sees").hidden = !botLooks;
    $("engine").textContent = `Answers come from ${engine}.`;
    showNetwork();
  } catch {
    complain("The demo does not answer: start it again, then reload this page.");
  }
}

$("connect").addEventListener("click", () => (call ? call.close() : connect()));
$("mute").addEventListener("click", () => mute($("mute").getAttribute("aria-pressed") !== "true"));
$("look").addEventListener("click", () => {
  const shown = $("look").getAttribute("aria-pressed") === "true";
  call.look(shown);
  showLook(shown);
});
$("write").addEventListener("submit", (event) => {
  event.preventDefault();
  write();
});
// A browser submits no form whose button is disabled: the words go out as soon as they can.
$("words").addEventListener("keydown", ({ key, isComposing }) => {
  if (key === "Enter" && !isComposing) waits = $("send").disabled;
});
$("words").addEventListener("input", () => (waits = false));
playback.addEventListener("change", () => {
  $("silent").hidden = !playback.blocked;
  if (!playback.blocked) $("why-silent").textContent = SILENT.blocked;
});
$("unblock").addEventListener("click", async () => {
  if (!(await playback.resume())) $("why-silent").textContent = SILENT.device;
});
addEventListener("pagehide", () => call?.close());

addEventListener("online", showNetwork);
addEventListener("offline", showNetwork);

drawParts();
$("connect").disabled = false; // the page comes with it disabled: until here a click does nothing
const panel = new Panel(see);
const known = showEngine();
show("idle");

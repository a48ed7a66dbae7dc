// The page: what a call reports becomes a state, a transcript and the figures of the last turn.

import { Call, CallError, openCamera, openMicrophone } from "./call.js";
import { PARTS, TOTAL } from "./latency.js";
import { Meter } from "./meter.js";
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
};

const $ = (id) => document.getElementById(id);
const transcript = new Transcript($("turns"));
let state = "idle";
let call = null;
let botSpeaks = false;
let botLooks = false;

function show(next) {
  state = next;
  const [name, hint] = STATES[next];
  document.body.dataset.state = next;
  if ($("state").textContent !== name) $("state").textContent = name;
  $("hint").textContent = hint;
  $("connect").textContent = call ? "Disconnect" : "Connect";
  $("mute").hidden = !call || ["asking", "connecting"].includes(next);
  $("look").hidden = $("mute").hidden || $("camera").hidden;
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
    microphone = await openMicrophone();
    await known;
    if (botLooks) camera = await openCamera().catch((error) => complain(error.message));
  } catch (error) {
    $("empty").hidden = false;
    complain(error.message);
    show("idle");
    return;
  } finally {
    $("connect").disabled = false;
  }

  const mine = (call = new Call(microphone, camera));
  const meter = new Meter($("meter").children, () => (state === "speaking" ? "bot" : "user"));
  meter.listen("user", microphone);
  mute(false);
  $("camera").srcObject = camera ?? null;
  $("camera").hidden = !camera;
  showLook(true);
  call.addEventListener("voice", ({ detail: stream }) => {
    $("voice").srcObject = stream;
    meter.listen("bot", stream);
  });
  call.addEventListener("message", ({ detail: message }) => hear(message));
  call.addEventListener("hung-up", () => complain("The demo ended the call: connect again."));
  call.addEventListener("ended", () => {
    meter.close();
    $("voice").srcObject = $("camera").srcObject = null;
    $("camera").hidden = true;
    transcript.end();
    botSpeaks = false;
    call = null;
    show("idle");
  });

  try {
    show("connecting");
    await call.connect();
    if (state === "connecting") show("loading");
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

/** What one RTVI message means for the state and the transcript. */
function hear({ type, data }) {
  switch (type) {
    case "bot-ready":
      return show("listening");
    case "user-started-speaking":
      transcript.userBegins();
      return show("hearing");
    case "user-input":
      return transcript.userSays(data.text, data.final);
    case "user-stopped-speaking":
      transcript.userEnds();
      return show("thinking");
    case "bot-llm-started":
      return state === "speaking" ? undefined : show("thinking");
    case "bot-started-speaking":
      botSpeaks = true;
      return show("speaking");
    case "bot-output":
      return transcript.botSays(data);
    case "bot-stopped-speaking":
      botSpeaks = false;
      return state === "speaking" ? show("listening") : undefined;
    case "bot-interrupted":
      // Also sent when the user speaks into the bot's silence.
      return botSpeaks ? transcript.botInterrupted() : undefined;
    case "server-message":
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
  } else if (state === "thinking") show("listening");
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
    const { engine, camera } = await (await fetch("/api/status")).json();
    botLooks = camera;
    $("ask-what-it-sees").hidden = !camera;
    $("engine").textContent = `Answers come from ${engine}.`;
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
addEventListener("pagehide", () => call?.close());

drawParts();
const known = showEngine();
show("idle");

// The panel beside the conversation: break it, change it, functions, look, what it took.

import { NOT_YET } from "./call.js";
import { Changes } from "./changes.js";
import { Faults } from "./faults.js";
import { Functions } from "./functions.js";
import { Looks } from "./looks.js";
import { makeTabs } from "./tabs.js";
import { Took } from "./took.js";

const IDLE = "No call is running: press Connect first.";
const $ = (id) => document.getElementById(id);

/** What of the panel a demo has, by its status. */
export function offered({ panel, functions, scripted, camera }) {
  return { panel: panel === true, functions: functions === true, scripted: scripted === true, look: Boolean(camera) };
}

/** Listens to the call, and asks the panel in its pipeline. */
export class Panel {
  #call = null;
  #faults = new Faults($("panel-break"), (kind) => this.#ask("break", { kind }));
  #changes = new Changes($("change"), (values) => this.#ask("settings", values));
  #functions = new Functions($("panel-functions"));
  #looks = new Looks($("panel-look"));
  #took = new Took($("panel-took"));

  /** `openCamera()` resolves once the bot sees, and rejects with a sentence. */
  constructor(openCamera) {
    makeTabs($("tabs"));
    $("pipecat").addEventListener("change", () => this.#switch());
    $("report").addEventListener("click", () => this.#report());
    for (const button of document.querySelectorAll("[data-say]")) {
      button.addEventListener("click", () => this.#say(button.dataset.say));
    }
    $("see").addEventListener("click", async () => {
      $("look-said").textContent = "";
      if (!this.#call?.reachable) return ($("look-said").textContent = this.#missing);
      try {
        await openCamera();
      } catch (error) {
        $("look-said").textContent = error.message; // and the bot says that it sees nothing
      }
      this.#say($("see").dataset.question);
    });
  }

  /** What the demo offers, by its status. */
  offer(status) {
    const { panel, functions, scripted, look } = offered(status);
    $("panel").hidden = !panel;
    document.body.classList.toggle("with-panel", panel);
    $("tab-functions").hidden = !functions;
    $("tab-look").hidden = !look;
    for (const note of document.querySelectorAll(".scripted")) note.hidden = !scripted;
    for (const note of document.querySelectorAll(".sightless")) note.hidden = status.local !== true;
  }

  /** A call begins. */
  begin(call) {
    this.#call = call;
    for (const part of [this.#faults, this.#changes, this.#functions, this.#looks, this.#took]) part.clear();
    $("pipecat").checked = false;
    $("break-said").textContent = $("look-said").textContent = $("report-said").textContent = "";
  }

  end() {
    this.#call = null;
    this.#faults.end();
  }

  /** What an RTVI message means for the panel. */
  hear({ type, data }) {
    if (type === "bot-ready") this.#learn();
    else if (type === "bot-llm-started") this.#took.begin();
    else if (type === "server-message") {
      if (data.type === "fault") this.#faults.show(data);
      else if (data.type === "function") this.#functions.show(data);
      else if (data.type === "look") this.#looks.show(data);
      else if (data.type === "turn") this.#took.ended(data);
      else if (data.type === "latency") this.#took.measured(data.seconds);
    }
  }

  async #learn() {
    const call = this.#call;
    try {
      const { faults, why, switch: switches, settings } = await this.#ask("panel");
      $("faults").disabled = !faults;
      $("break-said").textContent = faults ? "" : why;
      $("pipecat").disabled = !switches;
      this.#changes.show(settings);
    } catch {
      if (call === this.#call) $("break-said").textContent = "This bot has no panel.";
    }
  }

  async #switch() {
    const pipecat = $("pipecat").checked;
    $("break-said").textContent = "";
    try {
      const { settings } = await this.#ask("service", { pipecat });
      this.#changes.show(settings);
      if (pipecat) $("break-said").textContent = "Pipecat’s own service answers from here on.";
    } catch (error) {
      $("pipecat").checked = !pipecat;
      $("break-said").textContent = error.message;
    }
  }

  #say(sentence) {
    const said = this.#call?.write?.(sentence);
    for (const id of ["functions-said", "look-said"]) {
      if (!said) $(id).textContent = this.#missing;
      else if ([IDLE, NOT_YET].includes($(id).textContent)) $(id).textContent = "";
    }
    if (!said) $("break-said").textContent = this.#missing;
  }

  /** Why nothing can be said. */
  get #missing() {
    return this.#call ? NOT_YET : IDLE;
  }

  async #report() {
    try {
      const { text } = await this.#ask("report");
      const whole = `${text}\n- browser: ${navigator.userAgent}\n`;
      $("report-text").value = whole;
      $("report-text").hidden = false;
      await navigator.clipboard.writeText(whole);
      $("report-said").textContent = "Copied. It has no key; read it before you send it.";
    } catch (error) {
      const shown = !$("report-text").hidden;
      $("report-said").textContent = shown ? "Copy it from here: this browser gives no clipboard." : error.message;
      if (shown) $("report-text").select();
    }
  }

  async #ask(kind, data = {}) {
    if (!this.#call?.ask) throw new Error(IDLE);
    return this.#call.ask(kind, data);
  }
}

// What the bot's functions do on the page: a timer, notes, and the weather.

import { make } from "./make.js";

const TICK_MS = 200;
const SKIES = { sunny: "☀", cloudy: "☁", raining: "☂", foggy: "≋", windy: "༄" };

/** Shows the functions of the demo's bot, and those of another bot as a line. */
export class Functions {
  #root;
  #timers = [];

  constructor(root) {
    this.#root = root;
  }

  clear() {
    for (const timer of this.#timers.splice(0)) clearInterval(timer);
    this.#root.querySelector("#shown").replaceChildren();
  }

  /** A function has returned: the panel's message. */
  show({ name, arguments: given, result }) {
    if (result === undefined) return;
    if (result?.error) this.#add("Function", name, `${result.error}`);
    else if (name === "set_timer") this.#timer(result.seconds);
    else if (name === "take_note") this.#add("Note", "✎", result.text);
    else if (name === "weather") {
      const { town, sky, celsius } = result;
      this.#add(`Weather in ${town}`, SKIES[sky] ?? "?", `${sky}, ${celsius} °C`);
    } else if (name !== "look") this.#add("Function", name, JSON.stringify(given));
  }

  #timer(seconds) {
    const item = this.#add("Timer", "⏱", inClock(seconds));
    const text = item.querySelector("span");
    text.role = "timer";
    const end = performance.now() + seconds * 1000;
    const timer = setInterval(() => {
      const left = Math.ceil((end - performance.now()) / 1000);
      text.textContent = left > 0 ? inClock(left) : "Time is up.";
      if (left > 0) return;
      clearInterval(timer);
      item.classList.add("rings");
    }, TICK_MS);
    this.#timers.push(timer);
  }

  #add(title, sign, text) {
    const item = make("li");
    const mark = make("i", { textContent: sign });
    mark.setAttribute("aria-hidden", "true");
    item.append(mark, make("b", { textContent: title }), make("span", { textContent: text }));
    this.#root.querySelector("#shown").prepend(item);
    return item;
  }
}

/** Seconds as a clock shows them: 1:05. */
export function inClock(seconds) {
  const [minutes, rest] = [Math.floor(seconds / 60), seconds % 60];
  return `${minutes}:${String(rest).padStart(2, "0")}`;
}

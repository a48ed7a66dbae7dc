// Break it: the faults that one can ask for, and what became of each.

import { make } from "./make.js";

const FAULTS = [
  ["cut", "Cut the stream", "The reply under way breaks off now, or the next one after five words."],
  ["hang", "Let it hang", "Nothing comes in answer to the next request."],
  ["429", "Answer 429", "The model is full for five seconds; other models answer."],
  ["503", "Answer 503", "The service is unavailable, for one request."],
  ["empty", "Empty reply", "The next reply ends without a word."],
  ["text-call", "Call as text", "The next reply writes a function’s call as text."],
  ["down", "Kill the endpoint", "All requests break off, and the port is closed for five seconds."],
];

const OUTCOMES = {
  waiting: "waits",
  struck: "now",
  met: "survived",
  failed: "error",
  silent: "silence",
  aloud: "read aloud",
  dropped: "dropped",
};
const OVER = ["met", "failed", "silent", "aloud", "dropped"];
const MOST_SHOWN = 12;
const TICK_MS = 100;

/** Buttons for the faults, and a list of what became of them. */
export class Faults {
  #root;
  #list;
  #stories = new Map(); // elements by the fault's number
  #timer;

  /** `ask(kind)` asks for a fault; what it rejects with is shown as a sentence. */
  constructor(root, ask) {
    this.#root = root;
    this.#list = root.querySelector("#stories");
    const about = root.querySelector("#about-fault");
    for (const [kind, name, explained] of FAULTS) {
      const button = make("button", { type: "button", className: "fault" });
      button.dataset.fault = kind;
      button.textContent = name;
      button.setAttribute("aria-description", explained);
      for (const shown of ["focus", "pointerenter", "click"]) {
        button.addEventListener(shown, () => (about.textContent = explained));
      }
      button.addEventListener("click", async () => {
        this.#say("");
        try {
          await ask(kind);
        } catch (error) {
          this.#say(error.message);
        }
      });
      root.querySelector("#faults").append(button);
    }
  }

  /** A call begins: what was broken in the last one is gone. */
  clear() {
    this.end();
    this.#stories.clear();
    this.#list.replaceChildren();
    this.#say("");
  }

  /** The call has ended: nothing more becomes of a fault. */
  end() {
    clearInterval(this.#timer);
    for (const clock of this.#list.querySelectorAll(".clock")) clock.remove();
  }

  /** What has become of a fault so far, in the panel's message. */
  show(story) {
    const old = this.#stories.get(story.number);
    const item = make("li", { className: story.state });
    item.dataset.state = story.state;
    const head = make("summary", { className: "headline" });
    head.append(
      make("small", { className: "badge", textContent: OUTCOMES[story.state] }),
      ` ${story.headline} `,
    );
    if (story.service !== "mistral_service") {
      head.append(make("small", { textContent: `on ${story.service} service` }));
    }
    const details = make("details", { open: old?.firstElementChild.open ?? true });
    details.append(head, steps(story.lines));
    item.append(details);
    if (old) old.replaceWith(item);
    else {
      for (const earlier of this.#list.querySelectorAll("details")) earlier.open = false;
      this.#list.prepend(item);
    }
    this.#stories.set(story.number, item);
    while (this.#list.children.length > MOST_SHOWN) this.#list.lastElementChild.remove();
    clearInterval(this.#timer);
    if (story.state === "struck") this.#tick(head, story.age);
    // One sentence for a screen reader, when it is over.
    if (OVER.includes(story.state)) this.#say(story.headline, true);
  }

  /** The seconds for which nothing has come, as they pass. */
  #tick(head, age) {
    const clock = make("span", { className: "clock" });
    clock.setAttribute("aria-hidden", "true");
    head.append(clock);
    const zero = performance.now() - age * 1000;
    const show = () => (clock.textContent = `${((performance.now() - zero) / 1000).toFixed(1)} s`);
    show();
    this.#timer = setInterval(show, TICK_MS);
  }

  #say(sentence, outcome = false) {
    const said = this.#root.querySelector("#fault-said");
    said.textContent = sentence;
    said.classList.toggle("visually-hidden", outcome);
  }
}

function steps(lines) {
  const list = make("ol", { className: "steps" });
  for (const { at, text } of lines) {
    const line = make("li");
    line.append(make("span", { textContent: `${at.toFixed(2)} s` }), ` ${text}`);
    list.append(line);
  }
  return list;
}

// Browsers block sound that nothing on the page asked for, and suspend it while the device does
// something else. The page says so, and a click starts it again.

const GRACE_MS = 1500; // a context that may run takes a moment to start

class Playback extends EventTarget {
  #contexts = new Set();
  #elements = new Set(); // which the browser did not let play

  /** Whether some sound does not run, in or out. The event "change" says when that may differ. */
  get blocked() {
    return this.#elements.size > 0 || [...this.#contexts].some(({ state }) => state !== "running");
  }

  /** A new AudioContext, which is watched until it is closed. */
  createContext(options) {
    const context = new AudioContext(options);
    const look = () => {
      if (context.state === "closed") this.#contexts.delete(context);
      else this.#contexts.add(context);
      this.#changed();
    };
    context.addEventListener("statechange", look);
    setTimeout(look, GRACE_MS);
    return context;
  }

  /** Play a stream in an element; null ends it. */
  async play(element, stream) {
    element.srcObject = stream;
    this.#elements.delete(element);
    if (stream) {
      await element.play().catch(({ name }) => {
        if (name === "NotAllowedError") this.#elements.add(element);
      });
    }
    this.#changed();
  }

  /** Start what is blocked. To be called when the user clicks. Resolves to whether it runs. */
  async resume() {
    for (const context of this.#contexts) context.resume().catch(() => undefined);
    for (const element of this.#elements) this.play(element, element.srcObject);
    await new Promise((resolve) => setTimeout(resolve, GRACE_MS));
    return !this.blocked;
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

export const playback = new Playback();

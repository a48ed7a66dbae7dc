// The words of the bot's reply, as far as they were heard: what another machine must know to go on
// with the reply where this one stopped.

/** Follows the RTVI messages of a call.
 *
 * A bot with a voice tells its words in `bot-output`, when they have been said: word by word, or
 * sentence by sentence where the voice reports no words. A sentence that was only begun then counts
 * as not heard, and is said again: better twice than not at all. A bot without a voice writes, in
 * `bot-llm-text`; what it wrote has been read.
 */
export class Heard {
  voiced = false; // whether this bot has a voice; known from its first sound on
  #begun = false; // whether there was any reply yet
  #before = ""; // what was heard of this reply from machines before
  #sentences = new Map();
  #written = "";
  #speaks = false;
  #complete = false; // the language model has written all of it
  #cut = false; // the user has interrupted it
  #asked = false; // the user has said something that nothing was answered to yet

  /** The words heard of the latest reply; null before the first one. */
  get words() {
    if (!this.#begun) return null;
    const said = [...this.#sentences.values()].map(({ said }) => said.trim());
    const here = this.voiced ? said.filter(Boolean).join(" ") : this.#written.trim();
    return [this.#before, here].filter(Boolean).join(" ");
  }

  /** Whether the reply's end was heard, or none comes because the user interrupted it. */
  get ended() {
    if (this.#cut) return true;
    if (!this.#complete || !this.words) return false;
    const rest = [...this.#sentences.values()].some(({ whole }) => !whole);
    return !this.voiced || !(this.#speaks || rest);
  }

  note({ type, data }) {
    switch (type) {
      case "user-input":
        if (!data.final || data.input_type === "backchannel") return;
        this.#asked = true;
        if (this.ended) this.#next();
        return;
      case "bot-interrupted":
        this.#cut = this.#begun;
        this.#speaks = false;
        if (this.#asked) this.#next();
        return;
      case "bot-llm-started":
        if (this.ended || !this.#begun) this.#next();
        this.#asked = this.#complete = false;
        return;
      case "bot-llm-text":
        this.#begun = true;
        this.#written += data.text;
        return;
      case "bot-llm-stopped":
        this.#complete = true;
        return;
      case "bot-tts-started":
        this.voiced = true;
        return;
      case "bot-started-speaking":
        this.voiced = this.#speaks = true;
        return;
      case "bot-stopped-speaking":
        this.#speaks = false;
        return;
      case "bot-output":
        return this.#outputs(data);
    }
  }

  /** Another machine goes on with the reply: its sentences are numbered from the beginning. */
  moved() {
    if (this.#begun) this.#before = this.words;
    this.#forget();
  }

  #outputs({ text, segment_id: id, spoken_status: status, spoken_progress: progress }) {
    if (this.#cut) this.#next();
    this.#begun = true;
    const whole = status === "completed" || !progress; // without progress it is not spoken, but shown
    if (progress) this.voiced = true;
    this.#sentences.set(id, { said: whole ? text : progress.accumulated_text, whole });
  }

  #next() {
    this.#begun = true;
    this.#before = "";
    this.#cut = this.#asked = false;
    this.#forget();
  }

  #forget() {
    this.#sentences.clear();
    this.#written = "";
    this.#speaks = this.#complete = false;
  }
}

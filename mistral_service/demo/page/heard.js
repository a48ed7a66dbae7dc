// The words of the bot's reply, as far as they were heard, and the user's before it: what another
// machine must know to go on where this one stopped.

const ASKED_LONGEST = 10000; // the server takes no more

/** Follows the RTVI messages of a call.
 *
 * A bot with a voice tells its words in `bot-output`, when they have been said: word by word, or
 * sentence by sentence where the voice reports no words. A sentence that was only begun then counts
 * as not heard, and is said again: better twice than not at all. A bot without a voice writes, in
 * `bot-llm-text`; what it wrote has been read.
 */
export class Heard {
  voiced; // whether this bot has a voice; if not before, it is known from its first sound on
  #begun = false; // whether there was any reply yet
  #before = ""; // what was heard of this reply from machines before
  #sentences = new Map();
  #written = "";
  #speaks = false;
  #complete = false; // the language model has written all of it
  #cut = false; // the user has interrupted it
  #asked = false; // the user has said something that nothing was answered to yet
  #arrived = ""; // the user's last words, as far as the bot has told that they came
  #sent = []; // what was written since, and the bot has not told of
  #answers = false; // an answer to the words that arrived has begun

  /** `voiced`: whether it is known to have one. */
  constructor(voiced = false) {
    this.voiced = voiced;
  }

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

  /** The user's last words; null where there are none, or too many to be sent. */
  get asked() {
    const before = this.#answers && this.#sent.length ? [] : [this.#arrived];
    const words = [...before, ...this.#sent].join(" ").trim();
    return words && words.length <= ASKED_LONGEST ? words : null;
  }

  /** The user has written something into the line. */
  wrote(text) {
    this.#sent.push(text);
  }

  note({ type, data }) {
    switch (type) {
      case "user-input":
        if (!data.final || data.input_type === "backchannel") return;
        if (data.input_type === "chat") this.#sent.shift();
        this.#asks(data.text);
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
        this.#answers = true;
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

  /** Another machine goes on: the sentences of its replies are numbered from the beginning.
   *
   * `asked` are the user's last words that it has. Returns what was written and never told of: it
   * is there after all (`arrived`), or it is not (`lost`).
   */
  moved(asked) {
    const sent = this.#sent.splice(0).join(" ");
    const has = spaced(asked ?? "").endsWith(spaced(sent));
    if (sent && has) this.#asks(sent);
    if (this.#asked) this.#next(); // what comes now is the answer to it
    else {
      if (this.#begun) this.#before = this.words;
      this.#forget();
    }
    return has ? { arrived: sent } : { lost: sent };
  }

  #asks(text) {
    this.#asked = true;
    this.#arrived = this.#answers ? text : `${this.#arrived} ${text}`;
    this.#answers = false;
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

const spaced = (words) => words.trim().replace(/\s+/g, " ");

// What both sides said, as it is said.

/** Writes a conversation into a list, one item for every turn. */
export class Transcript {
  #list;
  #user = null; // the user's turn that is still open, and its text so far
  #bot = null; // the bot's latest turn, its sentences by segment id, and whether it is over
  #pace = 17; // characters a second; learned from every sentence that was said to its end

  constructor(list) {
    this.#list = list;
  }

  clear() {
    this.end();
    this.#list.replaceChildren();
  }

  /** The conversation is over: nothing more is said. */
  end() {
    this.userEnds();
    this.#botEnds();
    this.#bot = null;
  }

  /** The user began to speak: whatever comes next is a new turn. */
  userBegins() {
    if (this.#bot) this.#bot.over = true;
    this.#user ??= { item: this.#item("user", "You"), said: "" };
    this.#user.item.classList.add("open");
    this.#follow();
  }

  /** Text of the user's turn: `final` pieces are kept, others stand until the next one comes. */
  userSays(text, final) {
    this.userBegins();
    const whole = `${this.#user.said} ${text.trim()}`.trim();
    if (final) this.#user.said = whole;
    write(this.#user.item, whole);
    this.#follow();
  }

  /** The user's turn is over; one without words, a cough perhaps, leaves no trace. */
  userEnds() {
    this.#user?.item.classList.remove("open");
    if (this.#user && !this.#user.said) this.#user.item.remove();
    this.#user = null;
  }

  /** A sentence of the bot, in the words of RTVI's `bot-output`. */
  botSays({ text, segment_id: id, spoken_status: status, spoken_progress: progress }) {
    const { item, sentences, written } = this.#botBegins();
    written?.remove(); // it has a voice after all
    if (!sentences.has(id)) {
      const sentence = new Sentence();
      item.querySelector("p").append(sentence.element, " ");
      sentences.set(id, sentence);
    }
    const sentence = sentences.get(id);
    if (status === "new") sentence.begin(text, this.#pace);
    else if (status === "in-progress") {
      sentence.progress(progress.accumulated_text, progress.remaining_text);
    } else this.#pace = sentence.finish(text) ?? this.#pace;
    this.#follow();
  }

  /** A piece of what a bot without a voice writes. */
  botWrites(text) {
    const bot = this.#botBegins();
    if (!bot.written) bot.item.querySelector("p").append((bot.written = document.createElement("b")));
    bot.written.append(text);
    this.#follow();
  }

  /** Nothing is heard for a while: what is being said stands still. */
  pause() {
    for (const sentence of this.#bot?.sentences.values() ?? []) sentence.stop();
  }

  /** The bot goes on where it was, from another machine: after the words that were heard. */
  resume() {
    if (!this.#bot || this.#bot.over) return;
    for (const sentence of this.#bot.sentences.values()) sentence.cut();
    // The next sentences may bear the numbers of these.
    this.#bot.sentences = new Map();
    this.#bot.written?.append(" ");
    this.#bot.written = undefined;
  }

  /** The user cut the bot off: what was not said stays visible, and is marked. */
  botInterrupted() {
    if (!this.#bot) return;
    this.#botEnds();
    this.#bot.item.classList.add("interrupted");
    const mark = document.createElement("small");
    mark.textContent = "interrupted";
    this.#bot.item.querySelector("p").append(mark);
  }

  /** Something went wrong, in words; the conversation goes on. Repetitions are counted. */
  problem(text) {
    this.end();
    let item = this.#list.lastElementChild;
    if (item?.className !== "problem" || item.querySelector("p").textContent !== text) {
      item = this.#item("problem", "Problem");
      item.querySelector("p").role = "alert"; // of the item itself, it would make the list none
      item.times = 0;
    }
    write(item, text); // also where it is there already: it is read out once more
    item.times += 1;
    if (item.times > 1) item.querySelector("strong").textContent = `Problem, ${item.times} times`;
    this.#follow();
  }

  #botBegins() {
    this.userEnds();
    if (!this.#bot || this.#bot.over) {
      this.#bot = { item: this.#item("bot", "Bot"), sentences: new Map(), over: false };
    }
    return this.#bot;
  }

  #botEnds() {
    if (!this.#bot) return;
    this.#bot.over = true;
    for (const sentence of this.#bot.sentences.values()) sentence.stop();
  }

  #item(kind, who) {
    const item = document.createElement("li");
    item.className = kind;
    const name = document.createElement("strong");
    name.textContent = who;
    item.append(name, document.createElement("p"));
    this.#list.append(item);
    return item;
  }

  /** Keep the newest words in sight, unless the reader has scrolled back. */
  #follow() {
    const box = this.#list.parentElement;
    const below = box.scrollHeight - box.scrollTop - box.clientHeight;
    if (below < 160) box.scrollTo({ top: box.scrollHeight, behavior: "smooth" });
  }
}

/** A sentence, of which the first part has been said and the rest is still to come.
 *
 * A voice that reports its words moves the border with `show`. One that does not, like Piper,
 * reports only where a sentence begins and ends: in between, the border moves word by word at the
 * pace of the sentences before, which is a guess, but a good one.
 */
class Sentence {
  element = document.createElement("span");
  #said = document.createElement("b");
  #rest = document.createElement("i");
  #began = null;
  #timer = null;
  #heard = ""; // what was certainly said

  constructor() {
    this.element.append(this.#said, this.#rest);
  }

  begin(text, pace) {
    this.#began = performance.now();
    const words = text.match(/\s*\S+\s*$|\s*\S+/g) ?? [];
    let shown = 0;
    this.show("", text);
    this.#timer = setInterval(() => {
      const heard = ((performance.now() - this.#began) / 1000) * pace;
      while (shown < words.length - 1 && words.slice(0, shown + 1).join("").length <= heard) shown++;
      this.show(words.slice(0, shown).join(""), words.slice(shown).join(""));
    }, 50);
  }

  show(said, rest) {
    this.#said.textContent = said;
    this.#rest.textContent = rest;
  }

  /** So far it has been said, as the voice reports. */
  progress(said, rest) {
    this.stop();
    this.#heard = said;
    this.show(said, rest);
  }

  /** Leave only what was certainly said: the rest comes again. */
  cut() {
    this.stop();
    this.show(this.#heard, "");
    if (!this.#heard) this.element.remove();
  }

  /** The sentence has been said; returns its pace, if it is known. */
  finish(text) {
    this.stop();
    this.#heard = text;
    this.show(text, "");
    const seconds = this.#began && (performance.now() - this.#began) / 1000;
    return seconds > 0.5 ? text.length / seconds : undefined;
  }

  stop() {
    clearInterval(this.#timer);
  }
}

function write(item, text) {
  item.querySelector("p").textContent = text;
}

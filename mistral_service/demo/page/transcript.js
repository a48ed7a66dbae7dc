// What both sides said, as it is said.

/** Writes a conversation into a list, one item for every turn. */
export class Transcript {
  #list;
  #user = null; // the user's turn that is still open, and its text so far
  #bot = null; // the bot's latest turn, its sentences by segment id, and whether it is over
  #cut = ""; // the words before a cut whose place is not in sight yet
  #marked = 0; // the fault that cut last, by its number
  #pace = 17; // characters a second; learned from every sentence that was said to its end

  constructor(list) {
    this.#list = list;
  }

  clear() {
    this.end();
    this.#cut = "";
    this.#marked = 0;
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
    this.#cut = "";
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
    this.#markCut();
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

  /** A fault has cut the reply after the words `place`: a mark says so, once they are in sight. */
  cutAfter({ number, place }) {
    if (!place || number === this.#marked) return;
    this.#marked = number;
    this.#cut = place;
    this.#markCut();
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

  #markCut() {
    if (!this.#cut || !this.#bot || this.#bot.over) return;
    const sentences = [...this.#bot.sentences.values()];
    const words = this.#cut.split(" ").map((word) => word.replace(/[^\w\s]/g, "\\$&"));
    const found = sentences.map(({ text }) => text).join(" ").match(new RegExp(words.join("\\s+")));
    let place = found ? found.index + found[0].length : Infinity;
    for (const sentence of sentences) {
      if (place <= sentence.text.length) {
        this.#cut = "";
        return sentence.mark(place);
      }
      place -= sentence.text.length + 1;
    }
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
  #shown = ["", ""];
  #cut = null; // where a mark stands, in characters

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
      const before = shown;
      while (shown < words.length - 1 && words.slice(0, shown + 1).join("").length <= heard) shown++;
      if (shown > before) this.show(words.slice(0, shown).join(""), words.slice(shown).join(""));
    }, 50);
  }

  show(said, rest) {
    this.#shown = [said, rest];
    const inRest = this.#cut === null ? null : this.#cut - said.length;
    fill(this.#said, said, inRest > 0 ? null : this.#cut);
    fill(this.#rest, rest, inRest > 0 ? inRest : null);
  }

  /** All of it, said or not. */
  get text() {
    return this.#shown.join("");
  }

  /** The stream was cut after so many characters. */
  mark(characters) {
    this.#cut = characters;
    this.show(...this.#shown);
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
    if (this.#cut > this.#heard.length) this.#cut = null;
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

/** Text, with the mark of a cut after so many characters; `null`: without. */
function fill(element, text, cut) {
  if (cut === null) return (element.textContent = text);
  const mark = document.createElement("small");
  mark.className = "cut";
  mark.textContent = "cut here";
  element.replaceChildren(text.slice(0, cut), " ", mark, text.slice(cut));
}

function write(item, text) {
  item.querySelector("p").textContent = text;
}

// One call over a WebSocket, which finds its way back by itself: where the machine that holds it
// goes away, another one takes it up, and learns what was heard of the reply under way.

import { CallError } from "./call.js";
import { Heard } from "./heard.js";
import { decode, encode } from "./protobuf.js";
import { Loudspeaker, capture } from "./sound.js";

const PROTOCOL = "mistral-call.v1";
const RTVI_LABEL = "rtvi-ai";
const RTVI_VERSION = "2.2.0";
const HUNG_UP = 1000;
const REFUSED = 1008;
const FAILED = 1011;
const ANSWER_MS = 5000; // a machine that takes longer to answer is taken for gone
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 2000;
const PATIENCE_MS = 30000;
const NEW_PATIENCE_MS = 3000; // a new call: where one machine is full, another one may have room
const SETTLED_MS = 5000; // a bot that breaks off sooner is as good as no answer
const BEAT = '{"type": "beat"}'; // the owner of the call sends it back at once
const TICK_MS = 500;
const QUIET = 2; // ticks without a word, after which the machine is asked whether it is there
const GONE = 6; // ticks after which it is taken for gone; one without power closes nothing
const COMES = 30; // ticks that a bot may take until it listens, and the longest patience

/** Events: as those of `Call`, and "moving" when the connection broke, "moved" when it is back
 * (detail: `resumed`, and what was written as it broke: `arrived` or `lost`). "hung-up" has a
 * sentence for the user as its detail, if there is more to say. */
export class SocketCall extends EventTarget {
  heard;
  over = false;
  #microphone;
  #deaf; // ends the capturing
  #loudspeaker = new Loudspeaker((stream) => this.#emit("voice", stream));
  #socket; // the one the call goes over; none while it moves
  #id = null;
  #note; // the functions that have started, as the machine wrote them down; sealed
  #sent = null; // what the server has signed as sent of the latest reply; the next one asks for it
  #pulse;
  #silent = 0; // ticks since something came
  #came = false; // whether anything has come from the bot on this line
  #patience = GONE; // grows, lest callers run from one machine to the next where all are late
  #pause = 0; // before the next attempt, ms
  #deadline; // for the attempts; none while all is well
  #began = 0; // this line
  #failed = false; // whether it was the bot that broke the line
  #count = 0;

  /** `microphone` may be missing: one can write to some bots. `voiced`: what is written is not read. */
  constructor(microphone, voiced = false) {
    super();
    this.#microphone = microphone;
    this.heard = new Heard(voiced);
    this.hears = Boolean(microphone);
  }

  /** Resolves once sound and messages flow. */
  async connect() {
    await this.#reach(NEW_PATIENCE_MS);
    this.#deadline = undefined;
    if (this.over || !this.#microphone) return;
    this.#deaf = await capture(this.#microphone, (piece) => this.#says(piece));
    if (this.over) this.#deaf();
  }

  mute(muted) {
    for (const track of this.#microphone?.getAudioTracks() ?? []) track.enabled = !muted;
  }

  /** Say something in writing; false if the call is on its way to another machine just now. */
  write(text) {
    if (!this.#send("send-text", { content: text })) return false;
    this.heard.wrote(text);
    return true;
  }

  close() {
    if (this.over) return;
    this.over = true;
    clearInterval(this.#pulse);
    this.#socket?.close(HUNG_UP);
    this.#socket = undefined;
    for (const track of this.#microphone?.getTracks() ?? []) track.stop();
    this.#deaf?.();
    this.#loudspeaker.close();
    this.#emit("ended");
  }

  /** Call until a machine answers. Throws the last `NoAnswer`: after so long, or a final one.
   *
   * Where a bot breaks off as soon as it is called, the attempts go on where they were.
   */
  async #reach(patience) {
    this.#deadline ??= performance.now() + patience;
    for (let last = new NoAnswer(); ; ) {
      if (performance.now() + this.#pause > this.#deadline) throw last;
      await pause(this.#pause);
      if (this.over) throw last;
      this.#pause = Math.min(this.#pause * 2 || FIRST_PAUSE_MS, LONGEST_PAUSE_MS);
      try {
        return await this.#open();
      } catch (error) {
        if (error.code === REFUSED) throw error;
        last = error;
      }
    }
  }

  /** Call, or call again. Resolves to the server's answer; throws a `NoAnswer`. */
  #open() {
    const url = new URL("call", document.baseURI);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url, PROTOCOL);
    socket.binaryType = "arraybuffer";
    return new Promise((resolve, reject) => {
      let refusal;
      const late = setTimeout(() => fail(), ANSWER_MS);
      const fail = (code) => {
        clearTimeout(late);
        socket.onclose = socket.onmessage = null;
        socket.close();
        reject(new NoAnswer(refusal, code));
      };
      socket.onopen = () => {
        const { words: heard, ended, asked } = this.heard;
        const sent = (heard && this.#sent) || undefined; // left out
        const hello = { id: this.#id, heard, ended, asked, sent, note: this.#note };
        socket.send(JSON.stringify({ type: "call", ...hello }));
      };
      socket.onclose = ({ code }) => fail(code);
      socket.onmessage = ({ data }) => {
        const answer = JSON.parse(data);
        if (answer.error) {
          refusal = answer.error; // and the code of the close says whether to come again
          return;
        }
        clearTimeout(late);
        if (this.over) return fail();
        if (this.#id !== answer.id) this.#note = undefined;
        this.#id = answer.id;
        this.#socket = socket;
        this.#began = performance.now();
        this.#silent = 0;
        this.#came = false;
        this.#pulse ??= setInterval(() => this.#beat(), TICK_MS);
        socket.onmessage = ({ data }) => this.#receive(data);
        socket.onclose = ({ code }) => this.#lost(socket, code);
        this.#send("client-ready", {
          version: RTVI_VERSION,
          about: { library: "mistral_service.demo" },
        });
        resolve(answer);
      };
    });
  }

  /** Notice a machine that went without closing its sockets. */
  #beat() {
    if (!this.#socket) return;
    if (this.#came && performance.now() > this.#began + SETTLED_MS) {
      this.#pause = 0;
      this.#deadline = undefined;
    }
    if (this.#silent >= (this.#came ? this.#patience : COMES)) {
      this.#patience = Math.min(2 * this.#patience, COMES);
      return this.#lost(this.#socket);
    }
    if (this.#silent === QUIET) this.#socket.send(BEAT); // one: what is late is not made later
    this.#silent += 1;
  }

  #receive(data) {
    this.#silent = 0;
    this.#came = true;
    if (typeof data === "string") return this.#told(JSON.parse(data));
    const frame = decode(new Uint8Array(data));
    if (frame?.kind === "audio") this.#loudspeaker.play(frame);
    else if (frame?.kind === "interruption") this.#loudspeaker.flush();
    else if (frame?.kind === "message") {
      const message = JSON.parse(frame.data);
      if (message.label !== RTVI_LABEL) return;
      if (message.type === "bot-interrupted") this.#loudspeaker.flush();
      this.heard.note(message);
      this.#emit("message", message);
    }
  }

  /** A text of the protocol. */
  #told(message) {
    if (message.type === "call") this.#signed(message);
    else if (message.type === "ping") {
      this.#note = message.note; // kept before it is confirmed, for the next machine
      this.#socket.send(JSON.stringify({ type: "pong", id: message.id }));
    }
  }

  /** The server's word of how far a reply was sent comes before the words. */
  #signed({ turn, sent, proof }) {
    const words = (this.#sent?.turn === turn ? this.#sent.words : "") + sent;
    this.#sent = { turn, words, proof };
  }

  #says(piece) {
    const socket = this.#socket;
    if (!socket) return; // what is said on the way is not heard
    const audio = new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength);
    socket.send(encode("audio", { audio, sample_rate: 16000, num_channels: 1 }));
  }

  #lost(socket, code) {
    if (this.over || socket !== this.#socket) return;
    this.#socket = undefined;
    this.#failed = code === FAILED;
    socket.onclose = socket.onmessage = null;
    if (code === HUNG_UP) this.#hungUp();
    else {
      socket.close();
      this.#move();
    }
  }

  async #move() {
    this.#emit("moving");
    try {
      const { resumed, asked } = await this.#reach(PATIENCE_MS);
      const written = this.heard.moved(resumed ? asked : null);
      if (!resumed) {
        this.heard = new Heard(this.heard.voiced);
        this.#sent = null;
      }
      this.#emit("moved", { resumed, ...written });
    } catch (error) {
      this.#hungUp(error.code === REFUSED ? OVER : this.#failed ? BROKE : GAVE_UP);
    }
  }

  #hungUp(sentence) {
    if (this.over) return;
    this.#emit("hung-up", sentence);
    this.close();
  }

  #send(type, data) {
    const message = { label: RTVI_LABEL, id: `${++this.#count}`, type, data };
    this.#socket?.send(encode("message", { data: JSON.stringify(message) }));
    return Boolean(this.#socket);
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

const GAVE_UP =
  "The call was lost: no machine took it up within 30 seconds. " +
  "See whether you are online, then connect again.";

const BROKE =
  "The bot failed, and again when it was called anew: its log says why. Connect again later.";

const OVER = "The call could not be taken up again, because it is over: connect anew.";

/** Nobody took the call. The message is the server's sentence, if it had one. */
class NoAnswer extends CallError {
  constructor(sentence, code) {
    super(sentence ?? "The demo does not answer: start it again, then connect.");
    this.code = code;
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

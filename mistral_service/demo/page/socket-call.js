// One call over a WebSocket, which finds its way back by itself: where the machine that holds it
// goes away, another one takes it up, and is told what was heard of the reply under way.

import { CallError } from "./call.js";
import { Heard } from "./heard.js";
import { decode, encode } from "./protobuf.js";
import { Loudspeaker, capture } from "./sound.js";

const PROTOCOL = "mistral-call.v1";
const RTVI_LABEL = "rtvi-ai";
const RTVI_VERSION = "2.2.0";
const HUNG_UP = 1000;
const REFUSED = 1008;
const ANSWER_MS = 5000; // a machine that takes longer to answer is taken for gone
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 2000;
const PATIENCE_MS = 30000;
const STUCK = 64000; // bytes that nobody takes: two seconds of the microphone

/** Events: as those of `Call`, and "moving" when the connection broke, "moved" when it is back
 * (detail: `resumed`, and what was written as it broke: `arrived` or `lost`). "hung-up" has a
 * sentence for the user as its detail, if there is more to say. */
export class SocketCall extends EventTarget {
  heard = new Heard();
  over = false;
  #microphone;
  #deaf; // ends the capturing
  #loudspeaker = new Loudspeaker((stream) => this.#emit("voice", stream));
  #socket; // the one the call goes over; none while it moves
  #id = null;

  /** `microphone` may be missing: one can write to some bots. */
  constructor(microphone) {
    super();
    this.#microphone = microphone;
    this.hears = Boolean(microphone);
  }

  /** Resolves once sound and messages flow. */
  async connect() {
    await this.#open();
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
    this.#socket?.close(HUNG_UP);
    this.#socket = undefined;
    for (const track of this.#microphone?.getTracks() ?? []) track.stop();
    this.#deaf?.();
    this.#loudspeaker.close();
    this.#emit("ended");
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
        socket.send(JSON.stringify({ type: "call", id: this.#id, heard, ended, asked }));
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
        this.#id = answer.id;
        this.#socket = socket;
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

  #receive(data) {
    if (typeof data === "string") return;
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

  #says(piece) {
    const socket = this.#socket;
    if (!socket) return; // what is said on the way is not heard
    const audio = new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength);
    socket.send(encode("audio", { audio, sample_rate: 16000, num_channels: 1 }));
    // A machine without power does not close its sockets: it only takes nothing any more.
    if (socket.bufferedAmount > STUCK) this.#lost(socket);
  }

  #lost(socket, code) {
    if (this.over || socket !== this.#socket) return;
    this.#socket = undefined;
    socket.onclose = socket.onmessage = null;
    if (code === HUNG_UP) this.#hungUp();
    else {
      socket.close();
      this.#move();
    }
  }

  async #move() {
    const deadline = performance.now() + PATIENCE_MS;
    this.#emit("moving");
    for (let wait = 0; !this.over; wait = Math.min(wait * 2 || FIRST_PAUSE_MS, LONGEST_PAUSE_MS)) {
      if (performance.now() + wait > deadline) return this.#hungUp(GAVE_UP);
      await pause(wait);
      if (this.over) return;
      try {
        const { resumed, asked } = await this.#open();
        const written = this.heard.moved(resumed ? asked : null);
        if (!resumed) this.heard = new Heard();
        return this.#emit("moved", { resumed, ...written });
      } catch (error) {
        if (error.code === REFUSED) return this.#hungUp(OVER);
      }
    }
  }

  #hungUp(sentence) {
    if (this.over) return;
    this.#emit("hung-up", sentence);
    this.close();
  }

  #send(type, data) {
    const message = { label: RTVI_LABEL, id: crypto.randomUUID(), type, data };
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

const OVER = "The call could not be taken up again, because it is over: connect anew.";

/** Nobody took the call. The message is the server's sentence, if it had one. */
class NoAnswer extends CallError {
  constructor(sentence, code) {
    super(sentence ?? "The demo does not answer: start it again, then connect.");
    this.code = code;
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

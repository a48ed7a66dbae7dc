// Runs beside the page, where sound must not wait for anything: a microphone that hands out small
// pieces of PCM, and a loudspeaker that plays pieces one after another without gaps.

const HEARING_RATE = 16000; // Hz, what speech recognition hears with
const PIECE = 320; // samples: 20 ms
const HEAD_START = 0.08; // s; the network delivers unevenly, so the first piece waits a little

class Microphone extends AudioWorkletProcessor {
  #step = sampleRate / HEARING_RATE;
  #at = 0; // where the next sample is taken, counted from the last one of the block before
  #last = 0;
  #piece = new Int16Array(PIECE);
  #filled = 0;

  process([[block]]) {
    if (!block) return true;
    // Between two samples a straight line will do: what is too high was filtered out before.
    for (; this.#at < block.length; this.#at += this.#step) {
      const i = Math.floor(this.#at);
      const before = i === 0 ? this.#last : block[i - 1];
      this.#put(before + (block[i] - before) * (this.#at - i));
    }
    this.#at -= block.length;
    this.#last = block[block.length - 1];
    return true;
  }

  #put(sample) {
    this.#piece[this.#filled++] = Math.max(-1, Math.min(1, sample)) * 32767;
    if (this.#filled < PIECE) return;
    this.port.postMessage(this.#piece);
    this.#filled = 0;
  }
}

class Loudspeaker extends AudioWorkletProcessor {
  #pieces = [];
  #at = 0; // in the first piece
  #wait = 0; // samples

  constructor() {
    super();
    // A piece to play, or null: forget what was not played yet.
    this.port.onmessage = ({ data: piece }) => {
      if (!piece) this.#pieces = [];
      else {
        if (!this.#pieces.length) this.#wait = HEAD_START * sampleRate;
        this.#pieces.push(piece);
      }
      if (this.#pieces.length < 2) this.#at = 0;
    };
  }

  process(_, [[block]]) {
    if (this.#wait > 0) {
      this.#wait -= block.length;
      return true;
    }
    for (let i = 0; i < block.length && this.#pieces.length; i++) {
      block[i] = this.#pieces[0][this.#at++] / 32768;
      if (this.#at === this.#pieces[0].length) {
        this.#pieces.shift();
        this.#at = 0;
      }
    }
    return true;
  }
}

registerProcessor("microphone", Microphone);
registerProcessor("loudspeaker", Loudspeaker);

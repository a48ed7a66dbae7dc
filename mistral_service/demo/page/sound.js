// Sound for a call over a WebSocket: pieces of PCM from the microphone, and to the loudspeaker.

import { playback } from "./playback.js";

const WORKLETS = new URL("worklets.js", import.meta.url);
const HIGHEST = 7200; // Hz; above half of 16 kHz a sample would tell another tone

/** Hand a microphone's sound to `take`, in pieces of 20 ms: Int16Array, 16 kHz, one channel. */
export async function capture(microphone, take) {
  const context = playback.createContext();
  await context.audioWorklet.addModule(WORKLETS);
  const pieces = new AudioWorkletNode(context, "microphone", { channelCount: 1, channelCountMode: "explicit" });
  pieces.port.onmessage = ({ data }) => take(data);
  // Two filters one after the other are steep enough.
  const [one, two] = [0, 1].map(() => new BiquadFilterNode(context, { frequency: HIGHEST }));
  context.createMediaStreamSource(microphone).connect(one).connect(two).connect(pieces);
  // What no one listens to is not computed: the node writes no sound, so this is silent.
  pieces.connect(context.destination);
  return () => context.close();
}

/** Plays pieces of PCM without gaps, at the rate they come with, into a MediaStream. */
export class Loudspeaker {
  #rate;
  #player; // a promise: the context's module must load first
  #context;
  #listen;

  /** `listen` is given the stream as soon as there is one. */
  constructor(listen) {
    this.#listen = listen;
  }

  play({ audio, sample_rate: rate, num_channels: channels = 1 }) {
    if (!audio?.length) return;
    if (rate !== this.#rate) this.#open(rate);
    // A copy, since a view of 16-bit numbers must begin at an even byte.
    const samples = new Int16Array(audio.slice(0, audio.length & ~1).buffer);
    const first = channels === 1 ? samples : samples.filter((_, i) => i % channels === 0);
    this.#player.then((player) => player.port.postMessage(first, [first.buffer]));
  }

  /** Forget what was not played yet. */
  flush() {
    this.#player?.then((player) => player.port.postMessage(null));
  }

  close() {
    this.#context?.close();
  }

  #open(rate) {
    this.close();
    this.#rate = rate;
    const context = (this.#context = playback.createContext({ sampleRate: rate }));
    this.#player = context.audioWorklet.addModule(WORKLETS).then(() => {
      const player = new AudioWorkletNode(context, "loudspeaker", { outputChannelCount: [1] });
      const out = context.createMediaStreamDestination();
      player.connect(out);
      this.#listen(out.stream);
      return player;
    });
    this.#player.catch(() => undefined); // the page was left meanwhile
  }
}

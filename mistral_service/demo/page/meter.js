// Five bars that follow the sound: yours while the bot listens, the bot's while it speaks.

import { playback } from "./playback.js";

const GAIN = 6; // speech of ordinary loudness has an RMS around 0.1
const SHAPE = [0.45, 0.8, 1, 0.75, 0.5];

export class Meter {
  #context; // none before there is something to listen to
  #bars;
  #sources = {};
  #level = 0;
  #frame;

  /** `bars` are the elements to stretch; `which()` names the source to follow, if any. */
  constructor(bars, which) {
    this.#bars = [...bars];
    const draw = () => {
      this.#frame = requestAnimationFrame(draw);
      const level = Math.min(1, this.#rms(which()) * GAIN);
      this.#level = Math.max(level, this.#level * 0.85); // rise at once, fall slowly
      this.#bars.forEach((bar, i) =>
        bar.style.setProperty("--level", (this.#level * SHAPE[i]).toFixed(3)),
      );
    };
    draw();
  }

  listen(name, stream) {
    this.#context ??= playback.createContext();
    const analyser = this.#context.createAnalyser();
    analyser.fftSize = 1024;
    this.#context.createMediaStreamSource(stream).connect(analyser);
    this.#sources[name] = { analyser, samples: new Float32Array(analyser.fftSize) };
  }

  close() {
    cancelAnimationFrame(this.#frame);
    for (const bar of this.#bars) bar.style.removeProperty("--level");
    this.#context?.close();
  }

  #rms(name) {
    const source = this.#sources[name];
    if (!source) return 0;
    source.analyser.getFloatTimeDomainData(source.samples);
    return Math.sqrt(source.samples.reduce((sum, x) => sum + x * x, 0) / source.samples.length);
  }
}

// What it took: the figures of the whole call, and a column for each turn.

import { PARTS } from "./latency.js";
import { make } from "./make.js";

const MOST_COLUMNS = 24;
const TOTALS = [
  ["turns", "Turns", String],
  ["attempts", "Requests", String],
  ["faults", "Faults met", String],
  ["resumes", "Sentences resumed", String],
  ["fallbacks", "Fallbacks asked", String],
  ["hedges", "Second requests in parallel", String],
  ["prompt_tokens", "Tokens in", inThousands],
  ["completion_tokens", "Tokens out", inThousands],
  ["cost", "Cost by Mistral’s price list", inDollars],
];

/** Adds up what the turns took. Pure: `turns` are the panel's messages. */
export function totals(turns) {
  const sum = { turns: turns.length };
  for (const [name] of TOTALS.slice(1)) {
    const known = turns.map((turn) => turn[name]).filter((value) => value !== undefined);
    sum[name] = known.length ? known.reduce((a, b) => a + b) : undefined;
  }
  return sum;
}

/** The figures and the chart of a call. */
export class Took {
  #root;
  #turns = [];
  #columns = []; // the parts of each turn's latency, in seconds

  constructor(root) {
    this.#root = root;
    for (const [name, title] of TOTALS) {
      const value = make("dd", { textContent: "—" });
      value.dataset.total = name;
      root.querySelector("#totals").append(make("dt", { textContent: title }), value);
    }
  }

  clear() {
    this.#turns = [];
    this.#columns = [];
    this.#draw();
  }

  /** The model is asked: what comes belongs to this turn. */
  begin() {
    this.#columns.push({});
  }

  /** The latency of a turn that was spoken. */
  measured(seconds) {
    if (!this.#columns.length) this.begin();
    Object.assign(this.#columns.at(-1), seconds);
    this.#draw();
  }

  /** A turn has ended: the panel's message. */
  ended(turn) {
    this.#turns.push(turn);
    if (!this.#columns.length) this.begin();
    const column = this.#columns.at(-1);
    column.faults = turn.faults ?? 0;
    // A turn that was written has no speech to measure, but a first token.
    column.llm ??= turn.first_token;
    this.#draw();
  }

  #draw() {
    const sum = totals(this.#turns);
    for (const [name, , inWords] of TOTALS) {
      const value = sum[name];
      const shown = value === undefined ? "—" : inWords(value);
      this.#root.querySelector(`[data-total="${name}"]`).textContent = shown;
    }
    const chart = this.#root.querySelector("#chart");
    const columns = this.#columns.slice(-MOST_COLUMNS);
    const lengths = columns.map((column) => PARTS.reduce((all, { key }) => all + (column[key] ?? 0), 0));
    const longest = Math.max(0.5, ...lengths);
    chart.replaceChildren(...columns.map((column) => drawn(column, longest)));
    const words = lengths.map((seconds) => seconds.toFixed(1)).join(", ");
    chart.setAttribute("aria-label", words ? `Seconds until the answer, by turn: ${words}.` : "No turn yet.");
  }
}

function drawn(column, longest) {
  const bar = make("div", { className: column.faults ? "column faulty" : "column" });
  for (const { key } of [...PARTS].reverse()) {
    if (!column[key]) continue;
    const piece = make("i");
    piece.dataset.part = key;
    piece.style.height = `${(column[key] / longest) * 100}%`;
    bar.append(piece);
  }
  return bar;
}

function inThousands(value) {
  return value.toLocaleString("en");
}

function inDollars(value) {
  return `$${value.toFixed(value < 0.01 ? 5 : 3)}`;
}

// How long each part of a turn took: what the figures mean. They are measured in the pipeline
// (mistral_service/demo/latency.py) and come in an RTVI server-message after each turn.

/** The parts of a turn, in the order in which they happen; together they are the total. */
export const PARTS = [
  {
    key: "stt",
    name: "Speech to text",
    explained:
      "From the end of your speech to its text: first the 0.2 s of silence that the voice detector waits for, then recognition.",
  },
  {
    key: "turn",
    name: "End of turn",
    explained:
      "From the text to the request. If your words sound unfinished, the turn model waits up to 3 s for more.",
  },
  {
    key: "llm",
    name: "First token",
    explained: "From the request to the language model to the first text of its answer.",
  },
  {
    key: "sentence",
    name: "First sentence",
    explained: "From the first text to a whole sentence, because speech starts with a whole one.",
  },
  {
    key: "tts",
    name: "First audio",
    explained: "From the first sentence to its first sound.",
  },
  {
    key: "rest",
    name: "The rest",
    explained: "Functions that the model called, and the pipeline's own work in between.",
  },
];

export const TOTAL = {
  key: "total",
  name: "Total",
  explained:
    "From the end of your speech to the first sound that leaves the bot; it reaches your ears 0.3 to 0.5 s later.",
};

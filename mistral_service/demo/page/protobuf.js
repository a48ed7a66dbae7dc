// Pipecat's frames as they go over a WebSocket: the five kinds of its frames.proto, and as much of
// Protocol Buffers as they need. Every field of theirs is a number, a text or bytes.

const KINDS = {
  text: { number: 1, fields: { id: 1, name: 2, text: 3 } },
  audio: { number: 2, fields: { id: 1, name: 2, audio: 3, sample_rate: 4, num_channels: 5, pts: 6 } },
  transcription: { number: 3, fields: { id: 1, name: 2, text: 3, user_id: 4, timestamp: 5 } },
  message: { number: 4, fields: { data: 1 } },
  interruption: { number: 5, fields: { id: 1, name: 2 } },
};
const NUMBERS = new Set(["id", "sample_rate", "num_channels", "pts"]);
const VARINT = 0;
const FIXED_64 = 1;
const COUNTED = 2; // a length, and so many bytes
const FIXED_32 = 5;

/** The bytes of a frame; `fields` are named as in frames.proto, and what is missing is left out. */
export function encode(kind, fields) {
  const { number, fields: numbers } = KINDS[kind];
  const pieces = Object.entries(fields).map(([name, value]) =>
    NUMBERS.has(name) ? [tag(numbers[name], VARINT), varint(value)] : counted(numbers[name], value),
  );
  return join(counted(number, join(pieces.flat())));
}

/** A frame's kind and fields; undefined if it is of a kind that is not known here. */
export function decode(bytes) {
  for (const [number, value] of read(bytes)) {
    const found = Object.entries(KINDS).find(([, kind]) => kind.number === number);
    if (!found || !(value instanceof Uint8Array)) continue;
    const [kind, { fields: numbers }] = found;
    const names = Object.fromEntries(Object.entries(numbers).map(([name, n]) => [n, name]));
    const fields = {};
    for (const [n, inner] of read(value)) {
      const name = names[n];
      if (name === undefined || (typeof inner === "number") !== NUMBERS.has(name)) continue;
      fields[name] = NUMBERS.has(name) || name === "audio" ? inner : TEXT.decode(inner);
    }
    return { kind, ...fields };
  }
  return undefined;
}

const TEXT = new TextDecoder();

/** The fields of a message, as pairs of a number and a value: a number, or bytes not yet read. */
function* read(bytes) {
  let at = 0;
  const number = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      if (at >= bytes.length) throw new RangeError("the frame is cut off");
      const byte = bytes[at++];
      value += (byte & 127) * scale; // no shift: those end at 32 bits
      if (byte < 128) return value;
    }
  };
  const take = (length) => {
    if (at + length > bytes.length) throw new RangeError("the frame is cut off");
    return bytes.subarray(at, (at += length));
  };
  while (at < bytes.length) {
    const key = number();
    const field = Math.floor(key / 8);
    if (key % 8 === VARINT) yield [field, number()];
    else if (key % 8 === COUNTED) yield [field, take(number())];
    else if (key % 8 === FIXED_64) take(8);
    else if (key % 8 === FIXED_32) take(4);
    else throw new RangeError(`wire type ${key % 8}`);
  }
}

function counted(number, value) {
  const bytes = typeof value === "string" ? new TextEncoder().encode(value) : value;
  return [tag(number, COUNTED), varint(bytes.length), bytes];
}

const tag = (number, type) => varint(number * 8 + type);

function varint(value) {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) + 128);
  return Uint8Array.from([...bytes, value]);
}

function join(pieces) {
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

// Bytes, and the one way in which anything here is refused.

/** A refusal, with the code `ephemeralml verify` gives for it. */
class Refusal extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** What this browser cannot do: no verdict on the file. */
class Unsupported extends Error {}

function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function fromHex(text) {
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

function sameBytes(a, b) {
  return a.length === b.length && a.every((byte, index) => byte === b[index]);
}

function isZero(bytes) {
  return bytes.every((byte) => byte === 0);
}

function concatenate(...parts) {
  const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}

function isBytes(value) {
  return value instanceof Uint8Array;
}

/** Byte strings by their order, shorter first where one begins the other. */
function compareBytes(a, b) {
  for (let index = 0; index < Math.min(a.length, b.length); index += 1) {
    if (a[index] !== b[index]) return a[index] - b[index];
  }
  return a.length - b.length;
}

/** Big-endian. */
function toInteger(bytes) {
  return bytes.length ? BigInt(`0x${hex(bytes)}`) : 0n;
}

/** Strict UTF-8; throws TypeError. */
function fromUtf8(bytes) {
  return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
}

function toUtf8(text) {
  return new TextEncoder().encode(text);
}

async function sha256(bytes) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
}

/** `str.isprintable` of Python: nothing a screen obeys, no separator but the space. */
function isPrintable(text) {
  return /^(?:[^\p{C}\p{Z}]| )*$/u.test(text);
}

function codePoints(text) {
  return [...text].length;
}

// DER (X.690), strictly: definite and minimal lengths, minimal integers, no default written out, nothing left over.

const DER = { BOOLEAN: 0x01, INTEGER: 0x02, BIT_STRING: 0x03, OCTET_STRING: 0x04, NULL: 0x05, OID: 0x06 };
const SEQUENCE = 0x30;
const SET = 0x31;

/** Throws `DerError`, whose callers know what it means for them. */
class DerError extends Error {}

function refuseDer() {
  throw new DerError("not strict DER");
}

class DerReader {
  constructor(data) {
    this.data = data;
    this.position = 0;
  }

  get done() {
    return this.position === this.data.length;
  }

  byte() {
    if (this.done) refuseDer();
    this.position += 1;
    return this.data[this.position - 1];
  }

  /** Whether the next element has this tag. */
  is(tag) {
    return this.data[this.position] === tag;
  }

  /** {tag, content, full} of the next element, whatever it is. */
  any() {
    const start = this.position;
    const tag = this.byte();
    // A tag of several bytes: a number of 31 or more, minimal.
    if ((tag & 0x1f) === 0x1f && this.base128() < 31) refuseDer();
    let length = this.byte();
    if (length >= 0x80) {
      const size = length - 0x80;
      if (size < 1 || size > 4) refuseDer();
      length = 0;
      for (let index = 0; index < size; index += 1) length = length * 256 + this.byte();
      if (length < 0x80 || length < 256 ** (size - 1)) refuseDer();
    }
    if (length > this.data.length - this.position) refuseDer();
    this.position += length;
    const content = this.data.subarray(this.position - length, this.position);
    return { tag, content, full: this.data.subarray(start, this.position) };
  }

  base128() {
    let value = 0;
    for (let index = 0; index < 5; index += 1) {
      const byte = this.byte();
      if (index === 0 && byte === 0x80) refuseDer();
      value = value * 128 + (byte & 0x7f);
      if (value >= 2 ** 32) refuseDer();
      if (byte < 0x80) return value;
    }
    return refuseDer();
  }

  /** The content of the next element, which must have this tag. */
  read(tag) {
    const element = this.any();
    if (element.tag !== tag) refuseDer();
    return element.content;
  }

  enter(tag) {
    return new DerReader(this.read(tag));
  }

  end() {
    if (!this.done) refuseDer();
  }

  boolean() {
    const content = this.read(DER.BOOLEAN);
    if (content.length !== 1 || (content[0] !== 0 && content[0] !== 0xff)) refuseDer();
    return content[0] === 0xff;
  }

  /** The content of an INTEGER of any sign. */
  integer() {
    const content = this.read(DER.INTEGER);
    if (content.length === 0) refuseDer();
    if (content.length > 1 && ((content[0] === 0 && content[1] < 0x80) || (content[0] === 0xff && content[1] >= 0x80))) {
      refuseDer();
    }
    return content;
  }

  unsigned(most) {
    const content = this.integer();
    const value = toInteger(content);
    if (content[0] >= 0x80 || value > most) refuseDer();
    return value;
  }

  /** The content of an OBJECT IDENTIFIER, in hex. */
  oid() {
    const content = this.read(DER.OID);
    if (content.length === 0 || content.length > 63) refuseDer();
    const arcs = new DerReader(content);
    while (!arcs.done) arcs.base128();
    return hex(content);
  }

  /** {bytes, unused} of a BIT STRING. */
  bitString(tag = DER.BIT_STRING) {
    const content = this.read(tag);
    const unused = content[0];
    if (content.length === 0 || unused > 7 || (content.length === 1 && unused > 0)) refuseDer();
    if (content[content.length - 1] & ((1 << unused) - 1) && content.length > 1) refuseDer();
    return { bytes: content.subarray(1), unused };
  }
}

/** One element with this tag and nothing after it. */
function readDer(data, tag) {
  const reader = new DerReader(data);
  const inner = reader.enter(tag);
  reader.end();
  return inner;
}

/** r ‖ s of a DER ECDSA signature on P-384, or null. */
function ecdsaSignature(der) {
  try {
    const reader = readDer(der, SEQUENCE);
    const numbers = [reader.unsigned(2n ** 384n - 1n), reader.unsigned(2n ** 384n - 1n)];
    reader.end();
    return fromHex(numbers.map((number) => number.toString(16).padStart(96, "0")).join(""));
  } catch (error) {
    if (error instanceof DerError) return null;
    throw error;
  }
}

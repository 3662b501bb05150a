// CBOR in the subset of codec/cbor.py: integers (as BigInt), byte and text strings, arrays, maps, booleans, null.
// Maps are Map. `decodeCbor` takes core deterministic CBOR (RFC 8949 section 4.2.1) and nothing else;
// `decodeForeignCbor` takes well-formed CBOR that others wrote, indefinite lengths included.

const MAX_DEPTH = 16;
const MAX_ITEMS = 4096;
const BREAK = 0xff;

function refuseCbor(code, message) {
  throw new Refusal(`cbor.${code}`, message);
}

function decodeCbor(data, limit) {
  const reader = readCbor(data, limit, false);
  if (!reader.deterministic) refuseCbor("order", "not the deterministic encoding of its value");
  return reader.value;
}

function decodeForeignCbor(data, limit) {
  return readCbor(data, limit, true).value;
}

function readCbor(data, limit, indefinite) {
  if (data.length > limit) refuseCbor("size", `${data.length} bytes, more than the ${limit} allowed`);
  countItems(data);
  const reader = new CborReader(data, indefinite);
  reader.value = reader.item(0);
  if (reader.position !== data.length) refuseCbor("trailing", `${data.length - reader.position} bytes after the end`);
  if (reader.outside) refuseCbor(...reader.outside);
  return reader;
}

/** Refuse too many data items by their heads alone, before any is built. */
function countItems(data) {
  if (data.length <= MAX_ITEMS) return;
  let position = 0;
  for (let count = 0; count <= MAX_ITEMS; count += 1) {
    if (position >= data.length) return;
    position = skipHead(data, position).next;
  }
  refuseCbor("items", `more than ${MAX_ITEMS} items`);
}

/** How many bytes the first item of a CBOR sequence (RFC 8742) takes, by heads alone: at most all of them. */
function firstItem(data) {
  let position = 0;
  // Each turn takes a byte at least, whatever a head announces.
  for (let left = 1n; left > 0n && position < data.length; left -= 1n) {
    const { major, argument, next } = skipHead(data, position);
    if (major === 4) left += argument;
    if (major === 5) left += 2n * argument;
    if (major === 6) left += 1n;
    position = next;
  }
  return Math.min(position, data.length);
}

/** Major type and argument of the head at `position`, 0 for an indefinite length; `next` is behind it and its string. */
function skipHead(data, position) {
  const major = data[position] >> 5;
  let argument = BigInt(data[position] & 31);
  let next = position + 1;
  if (argument >= 24n && argument <= 27n) {
    const size = 1 << Number(argument - 24n);
    argument = toInteger(data.subarray(next, next + size));
    next += size;
  } else if (argument > 27n) {
    argument = 0n;
  }
  if (major === 2 || major === 3) next += Number(argument);
  return { major, argument, next };
}

class CborReader {
  constructor(data, indefinite) {
    this.data = data;
    this.indefinite = indefinite;
    this.position = 0;
    this.deterministic = true;
    // What is well-formed and yet not part of the subset: said only once the whole has been read.
    this.outside = null;
  }

  bytes(count) {
    if (count > this.data.length - this.position) refuseCbor("malformed", "not well-formed CBOR");
    this.position += count;
    return this.data.subarray(this.position - count, this.position);
  }

  /** Major type and argument of the next item; an indefinite length is null. */
  head() {
    const initial = this.bytes(1)[0];
    const [major, low] = [initial >> 5, initial & 31];
    if (low < 24) return [major, BigInt(low), low];
    if (low <= 27) {
      const size = 1 << (low - 24);
      const argument = toInteger(this.bytes(size));
      // A shorter head would have held it.
      if (argument < 24n || (size > 1 && argument < 1n << BigInt(4 * size))) {
        if (major !== 7) this.deterministic = false;
      }
      return [major, argument, low];
    }
    if (low === 31 && major >= 2 && major <= 5 && this.indefinite) return [major, null, low];
    return refuseCbor("malformed", "not well-formed CBOR");
  }

  item(depth) {
    const [major, argument, low] = this.head();
    switch (major) {
      case 0:
        return argument;
      case 1:
        return -1n - argument;
      case 2:
        return argument === null ? this.chunks(2) : this.string(argument);
      case 3:
        return argument === null ? this.chunks(3).join("") : this.text(argument);
      case 4:
        return this.array(argument, depth);
      case 5:
        return this.map(argument, depth);
      case 6:
        this.item(depth);
        return refuseCbor("tag", `tag ${argument} is not allowed`);
      default:
        return this.simple(argument, low);
    }
  }

  /** false, true or null; anything else of this kind is outside the subset. */
  simple(argument, low) {
    if (low === 24 && argument < 32n) refuseCbor("malformed", "not well-formed CBOR");
    if (low === 20 || low === 21) return low === 21;
    if (low !== 22) this.outside ??= ["type", "a float or simple value is not part of the subset"];
    return null;
  }

  string(length) {
    if (length > BigInt(this.data.length)) refuseCbor("malformed", "not well-formed CBOR");
    return this.bytes(Number(length)).slice();
  }

  text(length) {
    try {
      return fromUtf8(this.string(length));
    } catch (error) {
      if (error instanceof Refusal) throw error;
      return refuseCbor("malformed", "not well-formed CBOR");
    }
  }

  /** The definite chunks of an indefinite string. */
  chunks(kind) {
    const parts = [];
    while (!this.atBreak()) {
      const [major, length] = this.head();
      if (major !== kind || length === null) refuseCbor("malformed", "not well-formed CBOR");
      parts.push(kind === 2 ? this.string(length) : this.text(length));
    }
    return kind === 2 ? concatenate(...parts) : parts;
  }

  atBreak() {
    if (this.data[this.position] !== BREAK) return false;
    this.position += 1;
    return true;
  }

  /** Calls `each` for as many entries as the head says. */
  entries(count, depth, each) {
    if (depth >= MAX_DEPTH) refuseCbor("depth", `nested deeper than ${MAX_DEPTH}`);
    if (count === null) {
      while (!this.atBreak()) each();
    } else {
      // Every entry takes at least a byte, so a false count ends at the end of the data.
      for (let index = 0n; index < count; index += 1n) each();
    }
  }

  array(count, depth) {
    const items = [];
    this.entries(count, depth, () => items.push(this.item(depth + 1)));
    return items;
  }

  map(count, depth) {
    const map = new Map();
    let last = null;
    this.entries(count, depth, () => {
      const start = this.position;
      const key = this.item(depth + 1);
      if (typeof key !== "bigint" && typeof key !== "string") this.outside ??= ["key", "map keys are integers or text"];
      if (map.has(key)) refuseCbor("malformed", "not well-formed CBOR");
      const encoded = this.data.subarray(start, this.position);
      if (last !== null && compareBytes(last, encoded) >= 0) this.deterministic = false;
      last = encoded;
      map.set(key, this.item(depth + 1));
    });
    return map;
  }
}

/** Head of a data item, as short as it can be. */
function cborHead(major, length) {
  if (length < 24) return Uint8Array.of((major << 5) | length);
  if (length < 0x100) return Uint8Array.of((major << 5) | 24, length);
  if (length < 0x10000) return Uint8Array.of((major << 5) | 25, length >> 8, length & 0xff);
  return Uint8Array.of((major << 5) | 26, ...fromHex(length.toString(16).padStart(8, "0")));
}

function cborBytes(bytes) {
  return concatenate(cborHead(2, bytes.length), bytes);
}

/** Whether a Map has all the required keys, and none but those and the optional ones. */
function hasKeys(map, required, optional = []) {
  const allowed = [...required, ...optional];
  return required.every((key) => map.has(key)) && [...map.keys()].every((key) => allowed.includes(key));
}

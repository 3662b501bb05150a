// JSON (RFC 8259) with what JSON.parse hides: a repeated key is refused, 1 is not 1.0. Objects are Map, whole numbers
// BigInt.

class JsonError extends Error {}

const MAX_JSON_DEPTH = 64;
const JSON_WORDS = { true: true, false: false, null: null };
const JSON_TOKEN = /[ \t\n\r]*(?:([{}[\]:,])|("(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*")|(-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?)|(true|false|null))/uy;

function parseJson(text) {
  const reader = new JsonReader(text);
  const value = reader.value(reader.token(), 0);
  if (!/^[ \t\n\r]*$/.test(text.slice(reader.position))) refuseJson();
  return value;
}

function refuseJson(message = "not JSON") {
  throw new JsonError(message);
}

class JsonReader {
  constructor(text) {
    this.text = text;
    this.position = 0;
  }

  /** [punctuation, string, number, word], one of them set. */
  token() {
    JSON_TOKEN.lastIndex = this.position;
    const match = JSON_TOKEN.exec(this.text);
    if (match === null) refuseJson();
    this.position = JSON_TOKEN.lastIndex;
    return match.slice(1);
  }

  value([punctuation, string, number, word], depth) {
    if (string !== undefined) return JSON.parse(string);
    if (number !== undefined) return /[.eE]/.test(number) ? Number(number) : BigInt(number);
    if (word !== undefined) return JSON_WORDS[word];
    if (depth >= MAX_JSON_DEPTH) refuseJson();
    if (punctuation === "[") return this.array(depth + 1);
    if (punctuation === "{") return this.object(depth + 1);
    return refuseJson();
  }

  array(depth) {
    const items = [];
    let token = this.token();
    if (token[0] === "]") return items;
    for (;;) {
      items.push(this.value(token, depth));
      if (this.more("]")) return items;
      token = this.token();
    }
  }

  object(depth) {
    const fields = new Map();
    let token = this.token();
    if (token[0] === "}") return fields;
    for (;;) {
      if (token[1] === undefined || this.token()[0] !== ":") refuseJson();
      const key = JSON.parse(token[1]);
      const value = this.value(this.token(), depth);
      if (fields.has(key)) refuseJson("a key is repeated");
      fields.set(key, value);
      if (this.more("}")) return fields;
      token = this.token();
    }
  }

  /** Whether the closing mark comes next; a comma may stand there instead. */
  more(close) {
    const [punctuation] = this.token();
    if (punctuation !== close && punctuation !== ",") refuseJson();
    return punctuation === close;
  }
}

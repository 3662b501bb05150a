// X.509 certificates (RFC 5280 section 4.1), read as strictly as `cryptography` does. Reading one proves nothing.

const OID = {
  EC: "2a8648ce3d0201",
  P384: "2b81040022",
  ECDSA_SHA384: "2a8648ce3d040303",
  SUBJECT_KEY_IDENTIFIER: "551d0e",
  KEY_USAGE: "551d0f",
  SUBJECT_ALTERNATIVE_NAME: "551d11",
  BASIC_CONSTRAINTS: "551d13",
  NAME_CONSTRAINTS: "551d1e",
  AUTHORITY_KEY_IDENTIFIER: "551d23",
  EXTENDED_KEY_USAGE: "551d25",
  AUTHORITY_INFORMATION_ACCESS: "2b06010505070101",
  CLIENT_AUTH: "2b06010505070302",
  ANY_EXTENDED_KEY_USAGE: "551d2500",
};
// Public keys of another kind than P-384, which a certificate may well hold: RSA, Ed25519, P-256, P-521.
const OTHER_KEYS = ["2a864886f70d010101", "2b6570"];
const OTHER_CURVES = ["2a8648ce3d030107", "2b81040023"];
const ECDSA_PREFIX = "2a8648ce3d0403";

/** Throws `DerError`. Times are in milliseconds since the epoch, names and keys the DER they are. */
function parseCertificate(der) {
  const outer = readDer(der, SEQUENCE);
  const tbs = outer.any();
  if (tbs.tag !== SEQUENCE) refuseDer();
  const algorithm = readAlgorithm(outer);
  const signature = outer.bitString();
  outer.end();

  const body = new DerReader(tbs.content);
  const version = readVersion(body);
  const serial = body.integer();
  // Serials that are not positive are for now only warned of by `cryptography`.
  if (serial[0] >= 0x80 || isZero(serial)) refuseDer();
  const innerAlgorithm = readAlgorithm(body);
  const issuer = readName(body);
  const validity = body.enter(SEQUENCE);
  const [notBefore, notAfter] = [readTime(validity), readTime(validity)];
  validity.end();
  const subject = readName(body);
  const key = readKey(body);
  if (body.is(0x81)) body.bitString(0x81);
  if (body.is(0x82)) body.bitString(0x82);
  const extensions = body.is(0xa3) ? readExtensions(body) : [];
  body.end();
  return {
    der, tbs: tbs.full, version, serial, algorithm, innerAlgorithm, signature, issuer, subject, key, extensions,
    notBefore: notBefore.time, notAfter: notAfter.time, dates: [notBefore, notAfter],
  };
}

function readVersion(body) {
  if (!body.is(0xa0)) return 0n;
  const field = body.enter(0xa0);
  const version = field.unsigned(255n);
  field.end();
  // Version 1 is the default, so it is not written out; 2 never came to be used.
  if (version !== 2n) refuseDer();
  return version;
}

/** {oid, full, parameters}. */
function readAlgorithm(reader) {
  const { tag, content, full } = reader.any();
  if (tag !== SEQUENCE) refuseDer();
  const inner = new DerReader(content);
  const oid = inner.oid();
  const parameters = inner.done ? null : inner.any();
  inner.end();
  if (oid.startsWith(ECDSA_PREFIX) && oid.length === 16 && parameters !== null) refuseDer();
  if (oid === OID.EC) {
    if (parameters === null || ![DER.OID, DER.NULL, SEQUENCE].includes(parameters.tag)) refuseDer();
    if (parameters.tag === DER.OID) new DerReader(parameters.full).oid();
    if (parameters.tag === DER.NULL && parameters.content.length > 0) refuseDer();
  }
  return { oid, full, parameters };
}

/** {full, empty}: a sequence of sets of attributes, each set in DER's order. */
function readName(reader) {
  const { tag, content, full } = reader.any();
  if (tag !== SEQUENCE) refuseDer();
  const name = new DerReader(content);
  while (!name.done) {
    const set = name.enter(SET);
    let last = null;
    while (!set.done) {
      const element = set.any();
      if (element.tag !== SEQUENCE) refuseDer();
      const attribute = new DerReader(element.content);
      attribute.oid();
      checkAttribute(attribute.any());
      attribute.end();
      if (last !== null && compareBytes(last, element.full) > 0) refuseDer();
      last = element.full;
    }
  }
  return { full, empty: content.length === 0 };
}

/** A PrintableString must be one; the wide encodings, which nobody here uses, are not read. */
function checkAttribute({ tag, content }) {
  if (tag === 0x13 && !/^[A-Za-z0-9 '()+,\-./:=?]*$/.test(String.fromCharCode(...content))) refuseDer();
  if (tag === 0x1c || tag === 0x1e) refuseDer();
}

/** {time, generalized, year}. */
function readTime(reader) {
  const { tag, content } = reader.any();
  const generalized = tag === 0x18;
  if (!generalized && tag !== 0x17) refuseDer();
  const text = String.fromCharCode(...content);
  const match = (generalized ? /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/ : /^(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/).exec(text);
  if (match === null) refuseDer();
  const [year, month, day, hour, minute, second] = match.slice(1).map(Number);
  const full = generalized ? year : year + (year >= 50 ? 1900 : 2000);
  if (full < 1 || month < 1 || month > 12 || day < 1 || hour > 23 || minute > 59 || second > 59) refuseDer();
  const date = new Date(0);
  date.setUTCFullYear(full, month - 1, day);
  if (date.getUTCDate() !== day) refuseDer();
  return { time: date.getTime() + ((hour * 60 + minute) * 60 + second) * 1000, generalized, year: full };
}

/** {full, algorithm, point}. */
function readKey(reader) {
  const { tag, content, full } = reader.any();
  if (tag !== SEQUENCE) refuseDer();
  const inner = new DerReader(content);
  const algorithm = readAlgorithm(inner);
  const point = inner.bitString();
  inner.end();
  return { full, algorithm, point };
}

function isP384(key) {
  const { oid, parameters } = key.algorithm;
  return oid === OID.EC && parameters.tag === DER.OID && hex(parameters.content) === OID.P384;
}

/** Whether it is a key that can be read, but not one on P-384. */
function isOtherKey(key) {
  const { oid, parameters } = key.algorithm;
  if (oid !== OID.EC) return OTHER_KEYS.includes(oid);
  return parameters.tag === DER.OID && OTHER_CURVES.includes(hex(parameters.content));
}

/** A WebCrypto key, or null for a point that is not on P-384 or not spelled out. */
async function importKey(key) {
  const { bytes, unused } = key.point;
  if (unused !== 0 || bytes.length !== 97 || bytes[0] !== 0x04) return null;
  return importVerifyKey("spki", key.full, P384_ECDSA);
}

function readExtensions(body) {
  const field = body.enter(0xa3);
  const list = field.enter(SEQUENCE);
  field.end();
  const extensions = [];
  while (!list.done) {
    const item = list.enter(SEQUENCE);
    const oid = item.oid();
    const critical = item.is(DER.BOOLEAN) ? item.boolean() : null;
    if (critical === false) refuseDer();
    extensions.push({ oid, critical: critical === true, value: item.read(DER.OCTET_STRING) });
    item.end();
  }
  return extensions;
}

function hasDuplicates(extensions) {
  return new Set(extensions.map(({ oid }) => oid)).size !== extensions.length;
}

function findExtension(certificate, oid) {
  return certificate.extensions.find((extension) => extension.oid === oid) ?? null;
}

/** {ca, pathLength}, the length null where there is none. */
function readBasicConstraints({ value }) {
  const reader = readDer(value, SEQUENCE);
  const ca = reader.is(DER.BOOLEAN) ? reader.boolean() : null;
  if (ca === false) refuseDer();
  const pathLength = reader.done ? null : reader.unsigned(2n ** 64n - 1n);
  reader.end();
  return { ca: ca === true, pathLength };
}

/** Tells whether bit `index` of a keyUsage is set: 0 digitalSignature, 4 keyAgreement, 5 keyCertSign … */
function readKeyUsage({ value }) {
  const reader = new DerReader(value);
  const { bytes } = reader.bitString();
  reader.end();
  return (index) => ((bytes[index >> 3] ?? 0) & (0x80 >> (index & 7))) !== 0;
}

/** Whether an authority key identifier names a key and nothing else. */
function namesOnlyAKey({ value }) {
  const reader = readDer(value, SEQUENCE);
  if (!reader.is(0x80)) return false;
  reader.read(0x80);
  return reader.done;
}

function readExtendedKeyUsage({ value }) {
  const reader = readDer(value, SEQUENCE);
  const usages = [];
  while (!reader.done) usages.push(reader.oid());
  return usages;
}

// COSE_Sign1 (RFC 9052 section 4.2) over the raw bytes, and strict Ed25519, as codec/cose.py and codec/ed25519.py.

const TAG_18 = 0xd2;
const SIG_STRUCTURE = concatenate(Uint8Array.of(0x84), cborHead(3, 10), toUtf8("Signature1"));

/** {protected, unprotected, payload, signature}; `tagged` says whether tag 18 must or must not be there. */
function parseSign1(data, { tagged, limit }) {
  if (data.length > limit) throw new Refusal("cose.size", `${data.length} bytes, more than the ${limit} allowed`);
  if ((data[0] === TAG_18) !== tagged) {
    throw new Refusal("cose.tag", `COSE_Sign1 tag 18 must ${tagged ? "" : "not "}be present`);
  }
  const value = decodeForeignCbor(tagged ? data.subarray(1) : data, limit);
  if (!Array.isArray(value) || value.length !== 4) {
    throw new Refusal("cose.structure", "not a COSE_Sign1: an array of four is needed");
  }
  const [header, unprotected, payload, signature] = value;
  if (!isBytes(header) || !(unprotected instanceof Map) || !isBytes(payload) || !isBytes(signature)) {
    throw new Refusal("cose.structure", "not a COSE_Sign1: wrong types inside");
  }
  return { protected: header, unprotected, payload, signature };
}

/** The only spelling of a tagged COSE_Sign1 with this header, an empty unprotected one, payload and signature. */
function encodeSign1(header, { payload, signature }) {
  return concatenate(
    Uint8Array.of(TAG_18, 0x84),
    cborBytes(header),
    Uint8Array.of(0xa0),
    cborBytes(payload),
    cborBytes(signature),
  );
}

/** The Sig_structure (RFC 9052 section 4.4) with empty external_aad. */
function toBeSigned(message) {
  return concatenate(SIG_STRUCTURE, cborBytes(message.protected), cborBytes(new Uint8Array()), cborBytes(message.payload));
}

// y-coordinates of the eight points of small order, non-canonical spellings included (RFC 8032 section 5.1.3).
const P_25519 = 2n ** 255n - 19n;
const ORDER_8 = 0x05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826n;
const SMALL_ORDER = [0n, 1n, ORDER_8, P_25519 - ORDER_8, P_25519 - 1n, P_25519, P_25519 + 1n];

function isSmallOrder(point) {
  return SMALL_ORDER.includes(BigInt.asUintN(255, toInteger(point.slice().reverse())));
}

/** A WebCrypto key, or null where the bytes are none. */
async function importVerifyKey(format, bytes, algorithm) {
  try {
    return await crypto.subtle.importKey(format, bytes, algorithm, false, ["verify"]);
  } catch (error) {
    if (error.name === "NotSupportedError") throw new Unsupported(`this browser's WebCrypto has no ${algorithm.name}`);
    return null;
  }
}

async function verifyEd25519(message, publicKey) {
  const { signature } = message;
  if (publicKey.length !== 32 || signature.length !== 64) return false;
  if (isSmallOrder(publicKey) || isSmallOrder(signature.subarray(0, 32))) return false;
  const key = await importVerifyKey("raw", publicKey, { name: "Ed25519" });
  return key !== null && crypto.subtle.verify({ name: "Ed25519" }, key, signature, toBeSigned(message));
}

const P384_ECDSA = { name: "ECDSA", namedCurve: "P-384", hash: "SHA-384" };

/** `signature` is r ‖ s, 96 bytes. */
async function verifyP384(key, signature, message) {
  return signature.length === 96 && crypto.subtle.verify(P384_ECDSA, key, signature, message);
}

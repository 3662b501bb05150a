// One AIR v1 receipt (draft-tsyrulnikov-rats-attested-inference-receipt-02): layers 1 to 3, as receipts/receipt.py and
// receipts/claims.py.

const MAX_RECEIPT_BYTES = 65536;
const PROTECTED_RECEIPT = fromHex("a2012703183d");
const AIR_PROFILE = "https://spec.cyntrisec.com/air/v1";
const EAT_PROFILE = 265n;
const MAX_TEXT_BYTES = 1024;
const CLAIM_KEYS = {
  iss: 1n, iat: 6n, cti: 7n, eat_nonce: 10n, model_id: -65537n, model_version: -65538n, model_hash: -65539n,
  request_hash: -65540n, response_hash: -65541n, attestation_doc_hash: -65542n, enclave_measurements: -65543n,
  policy_version: -65544n, sequence_number: -65545n, execution_time_ms: -65546n, memory_peak_mb: -65547n,
  security_mode: -65548n, model_hash_scheme: -65549n,
};
const OPTIONAL_CLAIMS = ["eat_nonce", "model_hash_scheme"];
const TEXT_CLAIMS = ["iss", "model_id", "model_version", "policy_version", "security_mode"];
const COUNTER_CLAIMS = ["iat", "sequence_number", "execution_time_ms", "memory_peak_mb"];
const HASH_CLAIMS = ["model_hash", "request_hash", "response_hash", "attestation_doc_hash"];
const MODEL_HASH_SCHEMES = ["sha256-single", "sha256-concat", "sha256-manifest"];

function refuseReceipt(code, message) {
  throw new Refusal(code, message);
}

/** Layer 1. {message, claims}, the claims a Map by key. */
function parseReceipt(raw) {
  if (raw.length > MAX_RECEIPT_BYTES) refuseReceipt("RECEIPT_TOO_LARGE", `${raw.length} bytes, more than ${MAX_RECEIPT_BYTES}`);
  let message;
  try {
    message = parseSign1(raw, { tagged: true, limit: MAX_RECEIPT_BYTES });
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    refuseReceipt("COSE_DECODE_FAILED", `not a tagged COSE_Sign1 (${error.code})`);
  }
  if (message.unprotected.size) refuseReceipt("NON_EMPTY_UNPROTECTED", "the unprotected header must be empty");
  if (!sameBytes(message.protected, PROTECTED_RECEIPT)) refuseHeader(message.protected);
  if (message.payload.length === 0) refuseReceipt("MISSING_PAYLOAD", "the payload is empty");
  if (!sameBytes(raw, encodeSign1(message.protected, message))) {
    refuseReceipt("NON_DETERMINISTIC_CBOR", "the envelope is not deterministically encoded");
  }
  return { message, claims: decodeClaims(message.payload) };
}

function refuseHeader(bytes) {
  let header = new Map();
  try {
    if (bytes.length) header = decodeCbor(bytes, MAX_RECEIPT_BYTES);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    const code = error.code === "cbor.order" ? "NON_DETERMINISTIC_CBOR" : "COSE_DECODE_FAILED";
    refuseReceipt(code, `the protected header is not acceptable CBOR (${error.code})`);
  }
  if (!(header instanceof Map)) refuseReceipt("COSE_DECODE_FAILED", "the protected header is not a map");
  if (header.get(1n) !== -8n) refuseReceipt("BAD_ALG", "alg must be -8 (EdDSA)");
  if (header.get(3n) !== 61n) refuseReceipt("BAD_CONTENT_TYPE", "content type must be 61 (application/cwt)");
  refuseReceipt("PROTECTED_HEADER_NOT_CLOSED", "the protected header holds more than alg and content type");
}

function decodeClaims(payload) {
  let claims;
  try {
    claims = decodeCbor(payload, MAX_RECEIPT_BYTES);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    const code = error.code === "cbor.order" ? "NON_DETERMINISTIC_CBOR" : "PAYLOAD_NOT_MAP";
    refuseReceipt(code, `the payload is not acceptable CBOR (${error.code})`);
  }
  if (!(claims instanceof Map)) refuseReceipt("PAYLOAD_NOT_MAP", "payload is not a CBOR map");
  if (claims.get(EAT_PROFILE) !== AIR_PROFILE) refuseReceipt("WRONG_PROFILE", "eat_profile is not AIR v1's");
  return claims;
}

/** Layer 2. */
async function verifyReceiptSignature({ message }, publicKey) {
  if (message.signature.length !== 64) refuseReceipt("BAD_SIG_LENGTH", "the signature must be 64 bytes");
  if (!(await verifyEd25519(message, publicKey))) {
    refuseReceipt("SIG_FAILED", "the signature is not by this key over these bytes");
  }
}

/** Layer 3. The claims by name, those absent null; `enclave_measurements` is {type, registers}. */
function readClaims(map) {
  const known = [...Object.values(CLAIM_KEYS), EAT_PROFILE];
  if ([...map.keys()].some((key) => !known.includes(key))) {
    refuseReceipt("UNKNOWN_CLAIM_KEY", "the claims map is closed and holds an unknown key");
  }
  const claims = {};
  for (const [name, key] of Object.entries(CLAIM_KEYS)) {
    claims[name] = map.get(key) ?? null;
    if (map.has(key) && claims[name] === null) refuseReceipt("WRONG_TYPE", `${name} is null`);
    if (!map.has(key) && !OPTIONAL_CLAIMS.includes(name)) refuseReceipt("MISSING_CLAIM", `${name} is missing`);
  }
  claims.enclave_measurements = readMeasurements(claims.enclave_measurements);
  TEXT_CLAIMS.forEach((name) => checkClaimText(name, claims[name]));
  COUNTER_CLAIMS.forEach((name) => {
    if (typeof claims[name] !== "bigint" || claims[name] < 0n) {
      refuseReceipt("WRONG_TYPE", `${name} must be an unsigned 64-bit integer`);
    }
  });
  if (claims.iat === 0n) refuseReceipt("IAT_ZERO", "iat must not be zero");
  checkClaimBytes("cti", claims.cti, 16, 16, "BAD_CTI_LENGTH");
  if (isZero(claims.cti)) refuseReceipt("ZERO_CTI", "cti is all zeros");
  if (claims.eat_nonce !== null) checkClaimBytes("eat_nonce", claims.eat_nonce, 8, 64, "BAD_NONCE_LENGTH");
  HASH_CLAIMS.forEach((name) => checkClaimBytes(name, claims[name], 32, 32, "BAD_HASH_LENGTH"));
  if (isZero(claims.model_hash)) refuseReceipt("ZERO_MODEL_HASH", "model_hash is all zeros");
  if (!["production", "evaluation"].includes(claims.security_mode)) {
    refuseReceipt("UNKNOWN_SECURITY_MODE", "security_mode must be production or evaluation");
  }
  if (claims.model_hash_scheme !== null) {
    checkClaimText("model_hash_scheme", claims.model_hash_scheme);
    if (!MODEL_HASH_SCHEMES.includes(claims.model_hash_scheme)) {
      refuseReceipt("UNKNOWN_MODEL_HASH_SCHEME", "model_hash_scheme is not one the draft defines");
    }
  }
  return claims;
}

function readMeasurements(value) {
  if (!(value instanceof Map)) refuseReceipt("WRONG_TYPE", "enclave_measurements must be a map");
  const names = Object.keys(MEASURED);
  if (!hasKeys(value, [], [...names, "measurement_type"])) {
    refuseReceipt("UNKNOWN_MEASUREMENT_KEY", "enclave_measurements has a key outside the closed set");
  }
  if ([...value.values()].includes(null)) refuseReceipt("BAD_MEASUREMENT_LENGTH", "enclave_measurements holds a null");
  const type = value.get("measurement_type");
  if (type !== "nitro-pcr" && type !== "tdx-mrtd-rtmr") {
    refuseReceipt("UNKNOWN_MTYPE", "enclave_measurements: unknown measurement_type");
  }
  const registers = new Map();
  for (const [position, name] of names.entries()) {
    const register = value.get(name);
    if (register === undefined && position > 2) continue;
    if (!isBytes(register) || register.length !== PCR_BYTES) {
      refuseReceipt("BAD_MEASUREMENT_LENGTH", `enclave_measurements: ${name} must be ${PCR_BYTES} bytes`);
    }
    registers.set(name, register);
  }
  if (type === "tdx-mrtd-rtmr" && registers.has("pcr8")) {
    refuseReceipt("TDX_PCR8_FORBIDDEN", "enclave_measurements: pcr8 is not a TDX register");
  }
  return { type, registers };
}

function checkClaimText(name, value) {
  if (typeof value !== "string") refuseReceipt("WRONG_TYPE", `${name} must be text`);
  const size = toUtf8(value).length;
  if (size === 0) refuseReceipt("EMPTY_TEXT", `${name} is empty`);
  if (size > MAX_TEXT_BYTES) refuseReceipt("TEXT_TOO_LONG", `${name} is ${size} bytes, more than ${MAX_TEXT_BYTES}`);
}

function checkClaimBytes(name, value, least, most, code) {
  if (!isBytes(value)) refuseReceipt("WRONG_TYPE", `${name} must be bytes`);
  if (value.length < least || value.length > most) refuseReceipt(code, `${name} is ${value.length} bytes`);
}

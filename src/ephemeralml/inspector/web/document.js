// The Nitro attestation document, read field by field as attestation/document.py does. Parsing proves no signature.

const MAX_DOCUMENT_BYTES = 32 * 1024;
const MAX_CERTIFICATE_BYTES = 1024;
const MAX_CABUNDLE = 8;
const MAX_FIELD_BYTES = 1024;
const MAX_MODULE_ID = 256;
const PCR_BYTES = 48;
const PCR_COUNT = 32n;
const MAX_TIMESTAMP_MS = BigInt(Date.UTC(9999, 11, 31));
const PROTECTED_ES384 = fromHex("a1013822");
const REQUIRED_FIELDS = ["module_id", "digest", "timestamp", "certificate", "cabundle"];
const OPTIONAL_FIELDS = ["public_key", "user_data", "nonce"];

function refuseDocument(code, message) {
  throw new Refusal(`parse.${code}`, `attestation document: ${message}`);
}

/** `timestamp` is in milliseconds since the epoch, `pcrs` a Map from Number to 48 bytes. */
function parseDocument(raw) {
  let message;
  try {
    message = parseSign1(raw, { tagged: false, limit: MAX_DOCUMENT_BYTES });
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    refuseDocument("cose", `not an untagged COSE_Sign1 (${error.code})`);
  }
  if (!sameBytes(message.protected, PROTECTED_ES384)) {
    refuseDocument("algorithm", "the protected header must be exactly {1: -35}, ES384");
  }
  if (message.unprotected.size) refuseDocument("unprotected", "the unprotected header must be empty");
  let payload;
  try {
    payload = decodeForeignCbor(message.payload, MAX_DOCUMENT_BYTES);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    refuseDocument("payload", `the payload is not acceptable CBOR (${error.code})`);
  }
  if (!(payload instanceof Map)) refuseDocument("payload", "the payload is not a map");
  const nitrotpm = payload.has("nitrotpm_pcrs");
  const registers = nitrotpm ? "nitrotpm_pcrs" : "pcrs";
  if (!hasKeys(payload, [...REQUIRED_FIELDS, registers], OPTIONAL_FIELDS)) {
    refuseDocument("fields", "a field is missing or unknown");
  }
  if (payload.get("digest") !== "SHA384") refuseDocument("digest", "digest must be SHA384");
  const document = {
    raw,
    message,
    moduleId: checkModuleId(payload.get("module_id")),
    timestamp: checkTimestamp(payload.get("timestamp")),
    pcrs: checkPcrs(payload.get(registers)),
    certificate: checkCertificate("certificate", payload.get("certificate")),
    cabundle: checkCabundle(payload.get("cabundle")),
    nitrotpm,
  };
  for (const name of OPTIONAL_FIELDS) document[name] = checkField(name, payload.get(name) ?? null);
  document.debug = document.pcrs.has(0) && isZero(document.pcrs.get(0));
  return document;
}

function checkModuleId(value) {
  if (typeof value !== "string" || value === "" || codePoints(value) > MAX_MODULE_ID) {
    refuseDocument("module_id", `module_id must be a text of 1 to ${MAX_MODULE_ID} characters`);
  }
  if (!/^[ -~]*$/.test(value)) refuseDocument("module_id", "module_id must be printable ASCII");
  return value;
}

function checkTimestamp(value) {
  if (typeof value !== "bigint" || value <= 0n || value > MAX_TIMESTAMP_MS) {
    refuseDocument("timestamp", "timestamp must be a positive number of milliseconds");
  }
  return Number(value);
}

function checkPcrs(value) {
  if (!(value instanceof Map) || value.size < 1 || BigInt(value.size) > PCR_COUNT) {
    refuseDocument("pcrs", `pcrs must be a map of 1 to ${PCR_COUNT} registers`);
  }
  const registers = new Map();
  for (const [index, register] of value) {
    if (typeof index !== "bigint" || index < 0n || index >= PCR_COUNT) {
      refuseDocument("pcrs", `a PCR index must be an integer below ${PCR_COUNT}`);
    }
    if (!isBytes(register) || register.length !== PCR_BYTES) refuseDocument("pcrs", `PCR${index} must be ${PCR_BYTES} bytes`);
    registers.set(Number(index), register);
  }
  return registers;
}

function checkCertificate(name, value) {
  if (!isBytes(value) || value.length < 1 || value.length > MAX_CERTIFICATE_BYTES) {
    refuseDocument(name, `${name} must hold certificates of 1 to ${MAX_CERTIFICATE_BYTES} bytes`);
  }
  return value;
}

function checkCabundle(value) {
  if (!Array.isArray(value) || value.length < 1 || value.length > MAX_CABUNDLE) {
    refuseDocument("cabundle", `cabundle must be an array of 1 to ${MAX_CABUNDLE} certificates`);
  }
  return value.map((item) => checkCertificate("cabundle", item));
}

function checkField(name, value) {
  if (value !== null && (!isBytes(value) || value.length > MAX_FIELD_BYTES)) {
    refuseDocument(name, `${name} must be null or at most ${MAX_FIELD_BYTES} bytes`);
  }
  return value;
}

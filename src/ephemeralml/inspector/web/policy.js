// What a relying party accepts: policy.json, read as attestation/policy.py does.

const MAX_POLICY_BYTES = 1 << 20;
const MEASURED = { pcr0: 0, pcr1: 1, pcr2: 2, pcr3: 3, pcr4: 4, pcr8: 8 };
const POLICY_KEYS = [
  "version", "insecure_any_measurement", "measurements", "models", "model_id", "minimum_model_version", "extra_roots",
];

function refusePolicy(code, message) {
  throw new Refusal(`policy.${code}`, `policy: ${message}`);
}

/** What no policy comes to: AWS's root alone, and no measurement checked. */
const NO_POLICY = Object.freeze({
  given: false, insecure: true, measurements: [], models: [], modelId: null, minimumVersion: null, extraRoots: [],
});

/** `measurements`: one Map from register to 48 bytes for each release. `extraRoots`: DER. */
function parsePolicy(bytes) {
  if (bytes.length > MAX_POLICY_BYTES) refusePolicy("size", `larger than ${MAX_POLICY_BYTES} bytes`);
  const fields = readPolicyJson(bytes);
  if (fields.get("version") !== 1n) refusePolicy("version", "version must be 1");
  const insecure = fields.get("insecure_any_measurement") ?? null;
  const sets = fields.get("measurements") ?? null;
  const policy = {
    given: true,
    insecure: insecure !== null,
    models: policyArray("models", fields.get("models")).map(policyModel),
    modelId: policyModelId(fields.get("model_id") ?? null),
    minimumVersion: policyVersion(fields.get("minimum_model_version") ?? null),
    extraRoots: policyArray("extra_roots", fields.get("extra_roots")).map(policyRoot),
  };
  const unknown = [...fields.keys()].filter((key) => !POLICY_KEYS.includes(key)).sort();
  if (unknown.length) refusePolicy("unknown_key", `unknown key '${unknown[0]}'`);
  if (insecure !== null && (insecure !== true || sets !== null)) {
    refusePolicy("insecure", "insecure_any_measurement must be true and stand without measurements");
  }
  policy.measurements = policy.insecure ? [] : policyArray("measurements", sets).map(policyMeasurements);
  if (!policy.insecure && policy.measurements.length === 0) {
    refusePolicy("measurements", "at least one set of Measurements is needed, or the policy would accept anybody");
  }
  policy.extraRoots.forEach(checkRoot);
  return policy;
}

function readPolicyJson(bytes) {
  let fields;
  try {
    fields = parseJson(fromUtf8(bytes));
  } catch (error) {
    if (!(error instanceof TypeError || error instanceof JsonError)) throw error;
    refusePolicy("json", error instanceof JsonError ? error.message : "not a UTF-8 text");
  }
  if (!(fields instanceof Map)) refusePolicy("json", "a JSON object is needed");
  return fields;
}

function policyArray(name, value = []) {
  if (!Array.isArray(value)) refusePolicy(name, `${name} must be an array`);
  return value;
}

function policyModel(value) {
  if (typeof value !== "string" || !/^[0-9a-fA-F]{64}$/.test(value)) {
    refusePolicy("model", "a model digest must be 64 hex digits");
  }
  return fromHex(value);
}

function policyModelId(value) {
  if (value !== null && (typeof value !== "string" || value === "")) {
    refusePolicy("model_id", "model_id must be the name in the model's manifest");
  }
  return value;
}

function policyVersion(value) {
  if (value !== null && (typeof value !== "bigint" || value < 1n)) {
    refusePolicy("minimum_model_version", "minimum_model_version must be a whole number from 1");
  }
  return value;
}

function policyRoot(value) {
  const base64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;
  const decoded = typeof value === "string" && base64.test(value) ? atob(value) : null;
  // Bits that are left over would be a second spelling.
  if (decoded === null || btoa(decoded) !== value) {
    refusePolicy("extra_root", "an extra root must be base64 of a DER certificate");
  }
  return Uint8Array.from(decoded, (character) => character.charCodeAt(0));
}

function checkRoot(der) {
  try {
    parseCertificate(der);
  } catch (error) {
    if (!(error instanceof DerError)) throw error;
    refusePolicy("extra_root", "an extra root is not a DER certificate");
  }
}

function policyMeasurements(value) {
  const names = Object.keys(MEASURED);
  if (!(value instanceof Map) || !hasKeys(value, names.slice(0, 3), names.slice(3))) {
    refusePolicy("measurement", "a set needs pcr0, pcr1 and pcr2, and may have pcr3, pcr4 and pcr8");
  }
  if ([...value.values()].some((text) => typeof text !== "string")) {
    refusePolicy("measurement", "a register must be 96 hex digits");
  }
  const registers = new Map();
  for (const name of names.filter((item) => value.has(item))) {
    const text = value.get(name);
    if (!/^[0-9a-fA-F]{96}$/.test(text)) refusePolicy("measurement", `${name} must be 96 hex digits`);
    const register = fromHex(text);
    if (isZero(register)) {
      refusePolicy("zero_measurement", `${name} is all zero: that is a debug enclave, whose memory the host can read`);
    }
    registers.set(MEASURED[name], register);
  }
  return registers;
}

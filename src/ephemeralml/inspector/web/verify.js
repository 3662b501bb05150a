// Bundle in, verdict out: every step in order, as receipts/verify.py and attestation/verify.py. The first failure ends it.

const BUNDLE_LIMITS = { receipt: MAX_RECEIPT_BYTES, document: MAX_DOCUMENT_BYTES, manifest: MAX_MANIFEST_SIZE };
const MAX_BUNDLE_BYTES = MAX_RECEIPT_BYTES + MAX_DOCUMENT_BYTES + MAX_MANIFEST_SIZE + 256;
const CLOCK_SKEW_MS = 300_000;
const MAX_SESSION_MS = 3 * 3600_000;
const BINDING_SIZES = { hpke: 32, model: 32, config: 32, boot: 16 };

/** Milliseconds since the epoch as "2026-11-23 12:00:00", in UTC. */
function showTime(milliseconds) {
  return new Date(Math.floor(milliseconds / 1000) * 1000).toISOString().slice(0, 19).replace("T", " ");
}

/**
 * {steps, ok, code, platform, confidential, reservations, policy, document, manifest, claims}: what was found, up to the
 * step that refused. `data` is the file, or more than `MAX_BUNDLE_BYTES` of it; `policy` is from `parsePolicy` or
 * `NO_POLICY`. The time is the document's own. Throws `Unsupported`.
 */
async function verifyBundle(data, policy) {
  const found = { steps: [], ok: false, code: null, platform: "unknown", policy, document: null, manifest: null, claims: null };
  const step = async (name, check) => {
    try {
      found.steps.push({ name, ok: true, detail: await check() });
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      found.steps.push({ name, ok: false, detail: error.message });
      throw error;
    }
  };
  try {
    await takeSteps(data, policy, found, step);
    found.ok = true;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    found.code = error.code;
  }
  found.reservations = reservations(found);
  found.confidential = found.reservations.length === 0;
  return found;
}

async function takeSteps(data, policy, found, step) {
  let bundle;
  let leaf;
  let binding;
  let receipt;
  await step("bundle", () => {
    bundle = parseBundle(data);
    const sizes = [bundle.receipt, bundle.document, bundle.manifest].map((part) => part.length).join(" + ");
    return `receipt, document and manifest, ${sizes} bytes`;
  });
  await step("parse", () => {
    const document = parseDocument(bundle.document);
    found.document = document;
    return `${document.moduleId}, ${document.pcrs.size} PCRs, ${document.raw.length} bytes`;
  });
  const { document } = found;
  await step("signature", async () => {
    leaf = await verifyDocumentSignature(document);
    return "ES384 over the raw payload";
  });
  await step("chain", async () => {
    found.platform = await verifyChain(document, leaf, { extraRoots: policy.extraRoots, at: document.timestamp });
    const root = found.platform === "nitro" ? "the AWS Nitro root G1" : "a root named by the policy";
    return `to ${root}, valid at ${showTime(document.timestamp)} UTC`;
  });
  // At the document's own time, the chain has shown that its certificate was valid then.
  await step("freshness", () => `made ${showTime(document.timestamp)} UTC, no nonce asked for`);
  await step("measurements", () => checkMeasurements(document, policy));
  await step("manifest", async () => {
    found.manifest = await verifyManifest(bundle.manifest);
    return `${found.manifest.modelId}, signed by ${hex(found.manifest.owner).slice(0, 16)}…`;
  });
  const { manifest } = found;
  await step("key binding", () => {
    binding = checkKeyBinding(document);
    return "attested: the receipt key";
  });
  await step("model", () => checkModel(binding, policy, manifest));
  await step("receipt parse", () => {
    receipt = parseReceipt(bundle.receipt);
    return `AIR v1, ${bundle.receipt.length} bytes`;
  });
  await step("receipt signature", async () => {
    await verifyReceiptSignature(receipt, document.public_key);
    return "Ed25519, by the key the document attests";
  });
  await step("receipt claims", () => {
    receipt.claims = readClaims(receipt.claims);
    return "complete and well-formed";
  });
  await step("receipt evidence", async () => {
    await checkEvidence(receipt.claims, found);
    found.claims = receipt.claims;
    const { iat, security_mode: mode } = receipt.claims;
    const issued = `issued ${showTime(Number(iat) * 1000)} UTC`;
    return `this document, model and session, computed in ${ranPrecision(receipt.claims, manifest)}, ${mode}, ${issued}`;
  });
}

function refuseBundle(code, message) {
  throw new Refusal(`BUNDLE_${code}`, `bundle: ${message}`);
}

function parseBundle(data) {
  if (data.length > MAX_BUNDLE_BYTES) refuseBundle("TOO_LARGE", `larger than ${MAX_BUNDLE_BYTES} bytes`);
  let value;
  try {
    value = decodeCbor(data, MAX_BUNDLE_BYTES);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    refuseBundle("MALFORMED", `not deterministic CBOR (${error.code})`);
  }
  if (!(value instanceof Map) || value.get("format") !== "ephemeralml-bundle") {
    refuseBundle("FORMAT", "this is not an EphemeralML bundle");
  }
  if (value.get("version") !== 1n) refuseBundle("VERSION", "only version 1 is known here: a newer release may read it");
  const names = Object.keys(BUNDLE_LIMITS);
  if (!hasKeys(value, ["format", "version", ...names])) refuseBundle("FIELDS", "a field is missing or unknown");
  for (const name of names) {
    const part = value.get(name);
    if (!isBytes(part) || part.length < 1 || part.length > BUNDLE_LIMITS[name]) {
      refuseBundle("FIELDS", `${name} must be 1 to ${BUNDLE_LIMITS[name]} bytes`);
    }
  }
  return Object.fromEntries(names.map((name) => [name, value.get(name)]));
}

function checkMeasurements(document, policy) {
  if (!policy.given) return "NOT CHECKED: no policy was given";
  if (policy.insecure) return "NOT CHECKED: the policy accepts any measurement";
  if (document.debug) {
    throw new Refusal(
      "measurements.debug", "the enclave runs in debug mode (PCR0 is zero): its host can read everything",
    );
  }
  const names = (registers) => registers.map((index) => `PCR${index}`).join(", ");
  let closest = null;
  for (const allowed of policy.measurements) {
    const differing = [...allowed.keys()].filter(
      (index) => !sameBytes(document.pcrs.get(index) ?? new Uint8Array(), allowed.get(index)),
    );
    if (differing.length === 0) return `${names([...allowed.keys()])} equal an allowed set`;
    if (closest === null || differing.length < closest.length) closest = differing;
  }
  throw new Refusal(
    "measurements.mismatch", `no allowed set has these registers; the closest differs in ${names(closest)}`,
  );
}

function checkKeyBinding(document) {
  const refuse = (code, message) => {
    throw new Refusal(`key_binding.${code}`, message);
  };
  if (document.nitrotpm) refuse("not_an_enclave", "the document is a NitroTPM instance's: no enclave, no session");
  if (document.public_key?.length !== 32) refuse("receipt_key", "the document carries no Ed25519 receipt key");
  let binding = null;
  try {
    binding = decodeCbor(document.user_data ?? new Uint8Array(), 1024);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
  }
  const names = Object.keys(BINDING_SIZES);
  const bound =
    binding instanceof Map &&
    hasKeys(binding, ["purpose", ...names]) &&
    binding.get("purpose") === "session" &&
    names.every((name) => isBytes(binding.get(name)) && binding.get(name).length === BINDING_SIZES[name]);
  if (!bound) refuse("user_data", "the document's user_data does not bind it to the purpose 'session'");
  return binding;
}

function checkModel(binding, policy, { modelId, digest, version }) {
  const refuse = (code, message) => {
    throw new Refusal(`model.${code}`, message);
  };
  if (!sameBytes(binding.get("model"), digest)) refuse("digest", "the enclave attests another model than this manifest");
  if (policy.models.length && !policy.models.some((allowed) => sameBytes(allowed, digest))) {
    refuse("not_allowed", "the policy does not allow this model");
  }
  if (policy.modelId !== null && policy.modelId !== modelId) {
    refuse("id", `the policy wants the model '${policy.modelId}', this enclave runs '${modelId}'`);
  }
  if (policy.minimumVersion !== null && version < policy.minimumVersion) {
    refuse("version", `version ${version} is older than the policy's ${policy.minimumVersion}`);
  }
  return `${modelId}, ${hex(digest).slice(0, 16)}…, version ${version}`;
}

/** Layer 5: the receipt speaks of this very document, enclave, model and session. */
async function checkEvidence(claims, { document, manifest, platform }) {
  const refuse = (code, message) => refuseReceipt(code, `receipt: ${message}`);
  if (!sameBytes(claims.attestation_doc_hash, await sha256(document.raw))) {
    refuse("ATTESTATION_DOC_HASH_MISMATCH", "it was issued under another attestation document");
  }
  const { type, registers } = claims.enclave_measurements;
  if (type !== "nitro-pcr") refuse("PLATFORM_MISMATCH", "its measurement_type is not nitro-pcr, the document's");
  for (const [name, register] of registers) {
    if (!sameBytes(register, document.pcrs.get(MEASURED[name]) ?? new Uint8Array())) {
      refuse("MEASUREMENTS_MISMATCH", `its ${name} is not the document's`);
    }
  }
  if (claims.model_hash_scheme !== "sha256-manifest") {
    refuse("MODEL_HASH_SCHEME_MISMATCH", "model_hash_scheme must be sha256-manifest");
  }
  if (!sameBytes(claims.model_hash, manifest.digest)) refuse("MODEL_HASH_MISMATCH", "model_hash is not the manifest's digest");
  if (claims.model_id !== manifest.modelId) refuse("MODEL_ID_MISMATCH", "model_id is not the manifest's");
  if (ranPrecision(claims, manifest) === null) {
    refuse("MODEL_VERSION_MISMATCH", "model_version is not the manifest's version and a precision it allows");
  }
  if (claims.eat_nonce === null) refuse("NONCE_MISSING", "it carries no eat_nonce, so it answers no particular request");
  const mode = platform === "nitro" && !document.debug ? "production" : "evaluation";
  if (claims.security_mode !== mode) refuse("SECURITY_MODE_MISMATCH", `security_mode must be ${mode} on this platform`);
  const issued = claims.iat * 1000n;
  if (issued < BigInt(document.timestamp - CLOCK_SKEW_MS)) {
    refuse("TIMESTAMP_BEFORE_EVIDENCE", "it was issued before the attestation document was made");
  }
  if (issued > BigInt(document.timestamp + MAX_SESSION_MS + CLOCK_SKEW_MS)) {
    refuse("TIMESTAMP_AFTER_SESSION", "it was issued after any session under this document had to end");
  }
}

/** What the receipt says ran, or null when its `model_version` is none that the manifest allows. */
function ranPrecision(claims, { version, precision }) {
  const spelled = (ran) => (precision === "fp32" ? `${version}` : `${version}+${ran}`);
  return PRECISIONS[precision].find((ran) => claims.model_version === spelled(ran)) ?? null;
}

/** Why it is not confidential, in the words of attestation/verdict.py. */
function reservations({ ok, platform, document, policy }) {
  const why = [];
  if (!ok) why.push("refused");
  if (platform === "local") why.push("a development root signed it, not AWS");
  if (platform === "unknown") why.push("its origin is unproven");
  if (document?.debug) why.push("the enclave runs in debug mode (PCR0 is zero)");
  if (document?.nitrotpm) why.push("a NitroTPM instance is no enclave");
  if (!policy.given) why.push("no policy says which enclave it should be");
  else if (policy.insecure) why.push("the policy accepts any measurement");
  return why;
}

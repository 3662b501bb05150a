// The package manifest, as package/manifest.py reads it: all of a model that an outsider can see.

const MAX_MANIFEST_SIZE = 32 << 10;
const MAX_ARTIFACTS = 64;
const MAX_ARTIFACT_SIZE = 4n << 30n;
const PROTECTED_EDDSA = fromHex("a10127");
const STREAM = { headerSize: 60n, tagSize: 16n, minChunk: 4n << 10n, maxChunk: 16n << 20n };
const PRECISIONS = { fp32: ["fp32"], bf16: ["bf16", "fp32"], int8: ["int8"] };
const MANIFEST_FIELDS = ["package_id", "model_id", "version", "spec", "created_at", "license", "owner", "artifacts", "key"];
const ARTIFACT_FIELDS = ["name", "size", "ciphertext_size", "sha256", "salt", "chunk_size"];
const KEY_FIELDS = ["provider", "key_arn", "encryption_context", "wrapped_dek"];
const SPEC_TYPES = {
  architecture: "string", pooling: "string", normalize: "boolean", max_sequence_length: "bigint", dimension: "bigint",
  precision: "string",
};
const ARTIFACT_NAME = /^[A-Za-z0-9_][A-Za-z0-9._-]*(?:\/[A-Za-z0-9_][A-Za-z0-9._-]*)*$/;
const KEY_ARN =
  /^arn:aws(?:-[a-z]+)*:kms:[a-z0-9-]{1,32}:[0-9]{12}:key\/(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|mrk-[0-9a-f]{32})$/;

function refuseManifest(code, message) {
  throw new Refusal(`manifest.${code}`, message);
}

function malformed(message) {
  refuseManifest("malformed", `the manifest is malformed: ${message}`);
}

/** {modelId, version, precision, owner, digest, …} of a manifest signed by the owner it names. */
async function verifyManifest(signed) {
  if (signed.length > MAX_MANIFEST_SIZE) refuseManifest("too_large", `the manifest is larger than ${MAX_MANIFEST_SIZE} bytes`);
  let message;
  let value;
  try {
    message = parseSign1(signed, { tagged: true, limit: MAX_MANIFEST_SIZE });
    if (!sameBytes(signed, encodeSign1(PROTECTED_EDDSA, message))) malformed("not the COSE_Sign1 this format uses");
    value = decodeCbor(message.payload, MAX_MANIFEST_SIZE);
  } catch (error) {
    if (!(error instanceof Refusal) || error.code === "manifest.malformed") throw error;
    malformed(error.message);
  }
  if (!(value instanceof Map) || value.get("type") !== "ephemeralml-manifest") malformed("it is not a package manifest");
  const owner = value.get("owner");
  if (!isBytes(owner)) malformed("owner is not a byte string");
  if (!(await verifyEd25519(message, owner))) refuseManifest("signature", "the manifest's signature is not its owner's");
  checkManifest(value);
  return {
    modelId: value.get("model_id"),
    version: value.get("version"),
    precision: value.get("spec").get("precision"),
    architecture: value.get("spec").get("architecture"),
    license: value.get("license"),
    createdAt: value.get("created_at"),
    owner,
    digest: await sha256(message.payload),
  };
}

function checkManifest(value) {
  if (value.get("format") !== 1n) {
    refuseManifest("format", "the manifest is not of format 1, the only one known here");
  }
  const artifacts = value.get("artifacts");
  if (!Array.isArray(artifacts)) malformed("artifacts is not a list");
  checkSpec(value.get("spec"));
  artifacts.forEach(checkArtifact);
  checkKey(value.get("key"));
  checkFields("Manifest", value, ["type", "format", ...MANIFEST_FIELDS]);
  checkBytes(value.get("package_id"), "package_id", 16, 16);
  checkText(value.get("model_id"), "model_id");
  checkInteger(value.get("version"), "version", 1n, 2n ** 63n - 1n);
  checkText(value.get("license"), "license");
  checkInteger(value.get("created_at"), "created_at", 0n, 253402300799n);
  checkBytes(value.get("owner"), "owner", 32, 32);
  if (artifacts.length < 1 || artifacts.length > MAX_ARTIFACTS) malformed(`there are not 1 to ${MAX_ARTIFACTS} artifacts`);
  const names = artifacts.map((artifact) => artifact.get("name"));
  if (new Set(names).size !== names.length) malformed("two artifacts have one name");
  const context = value.get("key").get("encryption_context");
  if (
    context.size !== 2 ||
    context.get("ephemeralml:package") !== hex(value.get("package_id")) ||
    context.get("ephemeralml:model") !== value.get("model_id")
  ) {
    malformed("encryption_context is not that of this package and model");
  }
}

function checkSpec(spec) {
  const names = Object.keys(SPEC_TYPES);
  if (!(spec instanceof Map) || !hasKeys(spec, names) || names.some((name) => typeof spec.get(name) !== SPEC_TYPES[name])) {
    malformed("the fields of ModelSpec are not exactly those of format 1");
  }
  const [length, dimension] = [spec.get("max_sequence_length"), spec.get("dimension")];
  const supported =
    spec.get("architecture") === "BertModel" &&
    ["mean", "cls"].includes(spec.get("pooling")) &&
    Object.hasOwn(PRECISIONS, spec.get("precision")) &&
    length >= 3n && length <= 8192n &&
    dimension >= 1n && dimension <= 8192n;
  if (!supported) refuseManifest("unsupported", "the package's model cannot run here");
}

function checkArtifact(artifact) {
  checkFields("Artifact", artifact, ARTIFACT_FIELDS);
  const name = artifact.get("name");
  if (typeof name !== "string" || name.length > 255 || !ARTIFACT_NAME.test(name)) {
    malformed("an artifact's name is not a safe relative path of at most 255 bytes");
  }
  const [size, chunk] = [artifact.get("size"), artifact.get("chunk_size")];
  checkInteger(size, "size", 0n, MAX_ARTIFACT_SIZE);
  checkInteger(chunk, "chunk_size", STREAM.minChunk, STREAM.maxChunk);
  const chunks = size === 0n ? 1n : (size + chunk - 1n) / chunk;
  const expected = STREAM.headerSize + size + STREAM.tagSize * chunks;
  checkInteger(artifact.get("ciphertext_size"), "ciphertext_size", expected, expected);
  checkBytes(artifact.get("sha256"), "sha256", 32, 32);
  checkBytes(artifact.get("salt"), "salt", 32, 32);
}

function checkKey(key) {
  checkFields("KeyRecord", key, KEY_FIELDS);
  if (key.get("provider") !== "aws-kms") malformed("the key's provider is not aws-kms");
  checkText(key.get("key_arn"), "key_arn");
  if (!KEY_ARN.test(key.get("key_arn"))) {
    malformed("key_arn is not the ARN of a KMS key (an alias can be repointed, so it is not accepted)");
  }
  if (!(key.get("encryption_context") instanceof Map)) malformed("encryption_context is not a map");
  checkBytes(key.get("wrapped_dek"), "wrapped_dek", 1, 6144);
}

function checkFields(what, value, names) {
  if (!(value instanceof Map) || !hasKeys(value, names)) malformed(`the fields of ${what} are not exactly those of format 1`);
}

function checkBytes(value, what, low, high) {
  if (!isBytes(value) || value.length < low || value.length > high) {
    malformed(`${what} is not a byte string of ${low}${high === low ? "" : ` to ${high}`} bytes`);
  }
}

function checkInteger(value, what, low, high) {
  if (typeof value !== "bigint" || value < low || value > high) malformed(`${what} is not an integer from ${low} to ${high}`);
}

function checkText(value, what) {
  if (typeof value !== "string" || value === "" || codePoints(value) > 256 || !isPrintable(value)) {
    malformed(`${what} is not printable text of 1 to 256 characters`);
  }
}

// Who signed: the document's own certificate, and its chain to the AWS Nitro root or to a root the policy names.
// As attestation/chain.py, with one difference: authorities are of the kind that AWS's and EphemeralML's development
// roots are. What this page does not read (keys on other curves than P-384, name constraints, alternative names,
// information access, issuers named otherwise than by key) it refuses.

// https://docs.aws.amazon.com/enclaves/latest/user/verify-root.html: SHA-256 of the DER of "aws.nitro-enclaves" G1.
const AWS_NITRO_ROOT_G1_SHA256 = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b";
const MAX_CHAIN_DEPTH = 8;
const MAX_SIGNATURE_CHECKS = 128;
const ACCOUNTED_FOR = [
  OID.AUTHORITY_INFORMATION_ACCESS, OID.AUTHORITY_KEY_IDENTIFIER, OID.SUBJECT_KEY_IDENTIFIER, OID.KEY_USAGE,
  OID.SUBJECT_ALTERNATIVE_NAME, OID.BASIC_CONSTRAINTS, OID.EXTENDED_KEY_USAGE,
];
const UNREAD = [OID.NAME_CONSTRAINTS, OID.SUBJECT_ALTERNATIVE_NAME, OID.AUTHORITY_INFORMATION_ACCESS];
const KEY_AGREEMENT = 4;
const KEY_CERT_SIGN = 5;

function readCertificate(der, step) {
  try {
    return parseCertificate(der);
  } catch (error) {
    if (!(error instanceof DerError)) throw error;
    throw new Refusal(
      `${step}.certificate`,
      step === "signature" ? "the document's certificate cannot be read" : "a certificate cannot be read",
    );
  }
}

/** The leaf certificate that verified the ES384 signature over the raw payload. */
async function verifyDocumentSignature(document) {
  const leaf = readCertificate(document.certificate, "signature");
  if (isOtherKey(leaf.key)) throw new Refusal("signature.key", "the document's certificate has no P-384 key");
  const key = isP384(leaf.key) ? await importKey(leaf.key) : null;
  if (key === null) throw new Refusal("signature.certificate", "the document's certificate cannot be read");
  if (!(await verifyP384(key, document.message.signature, toBeSigned(document.message)))) {
    throw new Refusal("signature.invalid", "the document was altered or signed by another key");
  }
  return leaf;
}

/** "nitro" or "local", by whose root it is. `at` is in milliseconds since the epoch. */
async function verifyChain(document, leaf, { extraRoots, at }) {
  const platform = await rootPlatform(document.cabundle[0], extraRoots);
  const [root, ...intermediates] = document.cabundle.map((der) => readCertificate(der, "chain"));
  for (const certificate of [root, ...intermediates, leaf]) checkValidity(certificate, at);
  checkLeaf(leaf);
  const chain = new ChainBuilder(root, intermediates);
  if (!wellFormed(leaf) || !(await chain.reaches(leaf, 0))) {
    throw new Refusal("chain.invalid", "the certificates do not chain to the root: one is missing, forged or misplaced");
  }
  return platform;
}

async function rootPlatform(root, extraRoots) {
  if (hex(await sha256(root)) === AWS_NITRO_ROOT_G1_SHA256) return "nitro";
  if (extraRoots.some((extra) => sameBytes(root, extra))) return "local";
  throw new Refusal("chain.untrusted_root", "the chain starts at a root that is neither AWS's nor named by the policy");
}

function checkValidity({ notBefore, notAfter }, at) {
  if (at < notBefore) throw new Refusal("chain.not_yet_valid", `a certificate is valid only from ${showTime(notBefore)}+00:00`);
  if (at > notAfter) throw new Refusal("chain.expired", `a certificate expired at ${showTime(notAfter)}+00:00`);
}

/** The leaf rules of AWS's process, sections 3.2.3.2 and 3.2.3.3: not a CA, allowed to sign. */
function checkLeaf(leaf) {
  let constraints;
  let usage;
  try {
    ({ constraints, usage } = readLeafExtensions(leaf));
  } catch (error) {
    if (!(error instanceof DerError)) throw error;
    throw new Refusal("chain.certificate", "a certificate cannot be read");
  }
  if (constraints === null || usage === null) {
    throw new Refusal("chain.leaf_extensions", "the document's certificate lacks BasicConstraints or KeyUsage");
  }
  if (constraints.ca) throw new Refusal("chain.leaf_is_ca", "the document's certificate is a CA");
  if (!usage(0)) throw new Refusal("chain.leaf_usage", "the document's certificate must not sign documents");
}

/** Both may be null. Every extension must be readable, whether or not anything here asks for it. */
function readLeafExtensions(leaf) {
  if (hasDuplicates(leaf.extensions)) refuseDer();
  let [constraints, usage] = [null, null];
  for (const extension of leaf.extensions) {
    if (extension.oid === OID.BASIC_CONSTRAINTS) {
      constraints = readBasicConstraints(extension);
      if (!constraints.ca && constraints.pathLength !== null) refuseDer();
    } else if (extension.oid === OID.KEY_USAGE) {
      usage = readKeyUsage(extension);
      if (!usage(KEY_AGREEMENT) && (usage(7) || usage(8))) refuseDer();
    } else if (extension.oid === OID.SUBJECT_KEY_IDENTIFIER) {
      const reader = new DerReader(extension.value);
      reader.read(DER.OCTET_STRING);
      reader.end();
    } else if (extension.oid === OID.AUTHORITY_KEY_IDENTIFIER) {
      if (!namesOnlyAKey(extension)) refuseDer();
    } else if (LISTS.includes(extension.oid)) {
      // No leaf of AWS's has one; a list with something in it is more than this page reads.
      if (!readDer(extension.value, SEQUENCE).done) refuseDer();
    }
  }
  return { constraints, usage };
}

// Alternative names, distribution points, policies, constraints, usages, access: each a list.
const LISTS = [
  "551d11", "551d12", "551d1e", "551d1f", "551d20", "551d24", "551d25", "551d2e",
  "2b06010505070101", "2b0601050507010b", "2b06010505070118",
];

/** The rules every certificate of a path must keep (RFC 5280 section 4.1, CA/B Forum section 7.1). */
function wellFormed(certificate) {
  return (
    certificate.version === 2n &&
    sameBytes(certificate.algorithm.full, certificate.innerAlgorithm.full) &&
    certificate.serial.length <= 21 &&
    !certificate.issuer.empty &&
    certificate.dates.every(({ generalized, year }) => !generalized || year < 1950 || year >= 2050) &&
    !hasDuplicates(certificate.extensions) &&
    certificate.extensions.every(({ oid, critical }) => !critical || ACCOUNTED_FOR.includes(oid)) &&
    findExtension(certificate, OID.NAME_CONSTRAINTS) === null
  );
}

/** Whether a certificate may issue others at this depth below the root. */
function isAuthority(certificate, depth) {
  const get = (oid) => findExtension(certificate, oid);
  const constraints = get(OID.BASIC_CONSTRAINTS);
  const usage = get(OID.KEY_USAGE);
  const named = get(OID.AUTHORITY_KEY_IDENTIFIER);
  const extended = get(OID.EXTENDED_KEY_USAGE);
  if (constraints === null || !constraints.critical || usage === null) return false;
  if (UNREAD.some((oid) => get(oid) !== null)) return false;
  // Never critical in an authority's certificate.
  if ([named, extended, get(OID.SUBJECT_KEY_IDENTIFIER)].some((extension) => extension?.critical)) return false;
  const { ca, pathLength } = readBasicConstraints(constraints);
  if (!ca || (pathLength !== null && BigInt(depth) > pathLength)) return false;
  if (!readKeyUsage(usage)(KEY_CERT_SIGN)) return false;
  if (named !== null && !namesOnlyAKey(named)) return false;
  return (
    extended === null ||
    readExtendedKeyUsage(extended).some((oid) => oid === OID.CLIENT_AUTH || oid === OID.ANY_EXTENDED_KEY_USAGE)
  );
}

class ChainBuilder {
  constructor(root, intermediates) {
    this.root = root;
    this.intermediates = intermediates;
    this.checks = 0;
  }

  /** Whether a path of authorities leads from `certificate` up to the root. */
  async reaches(certificate, depth) {
    if (sameBytes(certificate.der, this.root.der)) return true;
    if (depth > MAX_CHAIN_DEPTH) return false;
    for (const issuer of [this.root, ...this.intermediates]) {
      if (!sameBytes(issuer.subject.full, certificate.issuer.full)) continue;
      // One by one: a path is short, and the budget holds for all of them together.
      if ((await this.issued(issuer, certificate, depth)) && (await this.reaches(issuer, depth + 1))) return true;
    }
    return false;
  }

  async issued(issuer, certificate, depth) {
    if (!wellFormed(issuer) || !mayIssue(issuer, depth) || !isP384(issuer.key)) return false;
    if (certificate.algorithm.oid !== OID.ECDSA_SHA384) return false;
    this.checks += 1;
    if (this.checks > MAX_SIGNATURE_CHECKS) return false;
    const key = await importKey(issuer.key);
    const { bytes, unused } = certificate.signature;
    const signature = unused === 0 ? ecdsaSignature(bytes) : null;
    return key !== null && signature !== null && verifyP384(key, signature, certificate.tbs);
  }
}

function mayIssue(certificate, depth) {
  try {
    return isAuthority(certificate, depth);
  } catch (error) {
    if (error instanceof DerError) return false;
    throw error;
  }
}

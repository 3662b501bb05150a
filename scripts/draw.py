#!/usr/bin/env python3
"""The drawings of docs/concepts.md: `scripts/draw.py` writes docs/drawings/*.svg."""

from __future__ import annotations

from pathlib import Path

from drawing import MARGIN, WIDTH, Drawing

FOLDER = Path(__file__).parents[1] / "docs" / "drawings"


def zones() -> Drawing:
    """Who holds what."""
    page = Drawing(
        "Zones: who sees what",
        "Client, host and enclave from top to bottom, joined by sealed records that the host only copies. "
        "Beside them model owner, KMS and auditor. Each box says what its party sees and what it never sees.",
    )
    page.box(
        "client",
        "Client: the data owner's machine",
        "sees: texts, vectors, evidence, receipts",
        "never: the weights, the model's key",
    )
    page.down("sealed records, both ways", both=True)
    page.box(
        "host",
        "Host: trusted with nothing",
        "sees: ciphertext, evidence, the manifest, and how large, when and how often",
        "never: texts, vectors, weights, keys",
    )
    page.down("the same bytes, over vsock", both=True)
    page.box(
        "enclave",
        "Enclave: trusted once attested",
        "sees: texts, vectors, weights, keys",
        "has: memory alone; no disk, network, shell",
    )
    page.gap(20)
    page.row(
        ("note", "Model owner", ("sees: the weights and their key", "never: texts, vectors")),
        ("kms", "KMS", ("sees: the model's key, evidence", "never: texts, vectors, weights")),
    )
    page.gap()
    page.box(
        "client",
        "Auditor",
        "sees: receipt, evidence, manifest",
        "never: texts and vectors, unless the data owner hands them over",
    )
    return page


def session() -> Drawing:
    """A session, message by message."""
    page = Drawing(
        "A session, message by message",
        "Client and enclave exchange HELLO, EVIDENCE, OPEN, REQUEST, ACCEPT and RESPONSE through the host's relay. "
        "The client verifies the evidence before it sends anything else, and the receipt before it uses the vectors.",
    )
    client, enclave = 66.0, WIDTH - 66.0
    page.row(
        ("client", "Client", ()),
        ("host", "Relay", ()),
        ("enclave", "Enclave", ()),
    )
    top = page.y
    page.gap()
    page.message(client, enclave, "HELLO: a fresh nonce")
    page.message(enclave, client, "EVIDENCE: attestation document with that nonce, HPKE key, signed manifest")
    page.box(
        "note",
        "The client verifies",
        "signature, chain to the AWS root, nonce, measurements, manifest, HPKE key, model. On any failure "
        "nothing more is sent.",
    )
    page.gap(4)
    page.message(client, enclave, "OPEN: a random secret, sealed to the attested HPKE key")
    page.box(
        "note",
        "Both derive the session's keys",
        "from that secret and the hash of every byte so far: one for each direction",
    )
    page.gap(4)
    page.message(client, enclave, "REQUEST: texts, nonce and salt, sealed, padded, numbered")
    page.message(enclave, client, "ACCEPT: proof of the same keys")
    page.box("note", "The enclave runs the model", "and signs a receipt with its attested key")
    page.gap(4)
    page.message(enclave, client, "RESPONSE: vectors, salt and receipt, sealed")
    page.box("note", "The client verifies the receipt", "before it hands out the vectors")
    page.lifeline(client, top)
    page.lifeline(enclave, top)
    return page


def key_release() -> Drawing:
    """How the model's key reaches the enclave."""
    page = Drawing(
        "How the model's key is released",
        "The enclave hands an attestation document with a fresh RSA key to the host's key broker, which asks KMS. KMS "
        "verifies document and key policy, and encrypts the model's key to that RSA key. Only the enclave can open it.",
    )
    third = (WIDTH - 2 * MARGIN - 24) / 3
    enclave, host, kms = (MARGIN + third / 2 + index * (third + 12) for index in range(3))
    page.row(
        ("enclave", "Enclave", ()),
        ("host", "Host", ()),
        ("kms", "KMS", ()),
    )
    top = page.y
    page.gap()
    page.message(host, enclave, "signed manifest, wrapped key")
    page.box(
        "enclave",
        "The enclave checks",
        "the owner's signature by the key in its measured configuration, and that the version is not too low. "
        "It makes an RSA key for this one release, and has a document made that carries it.",
    )
    page.gap(4)
    page.message(enclave, host, "document, wrapped key")
    page.message(host, kms, "Decrypt, as the host's role")
    page.box(
        "kms",
        "KMS checks",
        "the document's signature and root, and the owner's key policy: measurements, role, encryption context. "
        "Otherwise: denied.",
    )
    page.gap(4)
    page.message(kms, host, "model's key, encrypted to the RSA key")
    page.message(host, enclave, "the same, still closed")
    page.box(
        "enclave",
        "The enclave opens it",
        "It counts only once it opens the package that the owner signed: anybody can encrypt to a public key.",
    )
    for x in (enclave, host, kms):
        page.lifeline(x, top)
    return page


def receipt() -> Drawing:
    """What a receipt binds."""
    page = Drawing(
        "What a receipt binds, and how it is verified offline",
        "A receipt holds hashes of request, answer, manifest and attestation document. The document, signed under the "
        "AWS root, carries the receipt's key and the enclave's measurements. The last box lists the steps offline.",
    )
    page.row(
        ("client", "Request", ("texts, nonce, salt",)),
        ("client", "Answer", ("vectors, salt",)),
    )
    page.down("SHA-256 of each")
    page.box(
        "enclave",
        "Receipt",
        "request_hash, response_hash, eat_nonce",
        "model_hash, attestation_doc_hash",
        "measurements, time, number",
        "signed by the enclave's receipt key",
    )
    page.down("hash of each")
    page.row(
        ("note", "Manifest", ("the model: files, version, precision", "signed by the model owner")),
        (
            "kms",
            "Attestation document",
            ("receipt key, measurements, the manifest's hash", "signed under the AWS root"),
        ),
    )
    page.gap(6)
    page.words("These three are the bundle: one .aer file.")
    page.gap()
    page.box(
        "host",
        "Verified offline, against your policy",
        "1. The document: signature, chain to the pinned AWS root, at the document's own time",
        "2. Its measurements are one whole set of the policy",
        "3. The manifest: signature; the document names it; the policy allows it",
        "4. The receipt: signed by the key in the document",
        "5. It names this document, these measurements, this model, and a time that fits",
        "6. With request and answer at hand: their hashes are those in the receipt",
    )
    return page


DRAWINGS = {"zones": zones, "session": session, "key-release": key_release, "receipt": receipt}


def main() -> None:
    """Write them all."""
    FOLDER.mkdir(exist_ok=True)
    for name, draw in DRAWINGS.items():
        (FOLDER / f"{name}.svg").write_text(draw().render(), encoding="utf-8")


if __name__ == "__main__":
    main()

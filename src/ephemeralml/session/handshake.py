"""The handshake, without any input or output: frames in, frames out, keys at the end.

    client   HELLO     {version, nonce}
    enclave  EVIDENCE  {version, hpke_public_key, attestation_document, manifest}
    client   OPEN      HPKE enc ‖ sealed secret, bound by its info to every byte of the two frames before
    enclave  ACCEPT    key confirmation

The manifest rides beside the document (its digest is in the attested user_data), so that the client can judge the
model's version before it sends anything and keep a bundle that verifies offline.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import NoReturn

from cryptography.hazmat.primitives.constant_time import bytes_eq

from ephemeralml.attestation import Policy, SessionBinding, Verdict, bind_session, verify_document
from ephemeralml.codec import cbor
from ephemeralml.errors import CodecError, SessionError
from ephemeralml.package import Manifest
from ephemeralml.session import hpke
from ephemeralml.session.frames import FrameType, encode_frame
from ephemeralml.session.keys import SECRET_BYTES, SessionKeys, derive_keys
from ephemeralml.session.limits import HANDSHAKE_FRAME_BYTES

VERSION = 1
NONCE_BYTES = 32
_INFO_LABEL = b"ephemeralml session v1 open"
_EVIDENCE_KEYS = {"version", "hpke_public_key", "attestation_document", "manifest"}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the enclave shows: its HPKE key (1216 bytes), its attestation document and the model's signed manifest."""

    hpke_public_key: bytes
    document: bytes
    manifest: bytes


@dataclass(frozen=True, slots=True)
class Attested:
    """Evidence that passed: the verdict, and the bytes that a bundle keeps."""

    verdict: Verdict
    evidence: Evidence
    manifest: Manifest

    @property
    def receipt_key(self) -> bytes:
        """Raw Ed25519 key (32 bytes) that this enclave signs receipts with, as attested."""
        key = self.verdict.document.public_key
        assert key is not None, "bind_session checked it"
        return key


def _malformed(what: str, side: str) -> NoReturn:
    raise SessionError(f"the {side} sent a malformed {what}", code=f"{what}.malformed")


def _read_map(body: bytes, keys: set[str], what: str, side: str) -> dict[int | str, cbor.Value]:
    try:
        value = cbor.decode(body, limit=HANDSHAKE_FRAME_BYTES)
    except CodecError:
        _malformed(what, side)
    if not isinstance(value, dict) or set(value) != keys:
        _malformed(what, side)
    if value["version"] != VERSION or type(value["version"]) is not int:
        raise SessionError(f"the {side} speaks another protocol version; this is {VERSION}", code=f"{what}.version")
    return value


class ClientHandshake:
    """The client's half. Use once, in order: `hello`, `receive_evidence`, `receive_accept`."""

    def __init__(self) -> None:
        self._nonce = os.urandom(NONCE_BYTES)
        self._hello = encode_frame(FrameType.HELLO, cbor.encode({"version": VERSION, "nonce": self._nonce}))

    def hello(self) -> bytes:
        """The first frame."""
        return self._hello

    def receive_evidence(self, body: bytes, *, policy: Policy, at: datetime) -> tuple[Attested, SessionKeys, bytes]:
        """Verify the evidence against `policy`, then make the secret; returns what passed, the keys and the OPEN frame.

        Raises `AttestationError` or `PackageError` for evidence that is refused, `SessionError` for a malformed frame.
        """
        value = _read_map(body, _EVIDENCE_KEYS, "evidence", "enclave")
        key, document, signed = value["hpke_public_key"], value["attestation_document"], value["manifest"]
        if not isinstance(key, bytes) or not isinstance(document, bytes) or not isinstance(signed, bytes):
            _malformed("evidence", "enclave")
        verdict = verify_document(document, policy=policy, at=at, nonce=self._nonce)
        manifest = Manifest.verify(signed, owner=None)
        verdict = bind_session(
            verdict,
            policy=policy,
            hpke_public_key=key,
            model_id=manifest.model_id,
            model_digest=manifest.digest,
            model_version=manifest.version,
        )
        shown = self._hello + encode_frame(FrameType.EVIDENCE, body)
        secret = os.urandom(SECRET_BYTES)
        sealed = hpke.seal(secret, key, info=_INFO_LABEL + sha256(shown).digest())
        opening = encode_frame(FrameType.OPEN, sealed)
        keys = derive_keys(secret, transcript=sha256(shown + opening).digest())
        return Attested(verdict, Evidence(key, document, signed), manifest), keys, opening


def check_accept(body: bytes, keys: SessionKeys) -> None:
    """Check the enclave's key confirmation. Raises `SessionError` when it derived other keys."""
    if not bytes_eq(body, keys.confirmation):
        raise SessionError("the enclave did not confirm the session's keys", code="accept.confirmation")


class EnclaveHandshake:
    """The enclave's half. Use once, in order: `receive_hello`, `evidence`, `receive_open`."""

    def __init__(self, *, key: hpke.HpkeKey, model: bytes, config: bytes, boot: bytes, manifest: bytes) -> None:
        self._key = key
        self._manifest = manifest
        self._binding = SessionBinding(
            hpke=sha256(key.public_bytes).digest(), model=model, config=config, boot=boot
        ).to_user_data()
        self._shown = b""

    def receive_hello(self, body: bytes) -> bytes:
        """The client's nonce. Raises `SessionError`."""
        value = _read_map(body, {"version", "nonce"}, "hello", "client")
        nonce = value["nonce"]
        if not isinstance(nonce, bytes) or len(nonce) != NONCE_BYTES:
            _malformed("hello", "client")
        self._shown = encode_frame(FrameType.HELLO, body)
        return nonce

    def evidence(self, nonce: bytes, *, attest: Callable[[bytes, bytes], bytes]) -> tuple[bytes, bytes]:
        """The EVIDENCE frame, and the document in it; `attest(user_data, nonce)` asks the security module for one."""
        document = attest(self._binding, nonce)
        frame = encode_frame(
            FrameType.EVIDENCE,
            cbor.encode(
                {
                    "version": VERSION,
                    "hpke_public_key": self._key.public_bytes,
                    "attestation_document": document,
                    "manifest": self._manifest,
                }
            ),
        )
        self._shown += frame
        return frame, document

    def receive_open(self, body: bytes) -> tuple[SessionKeys, bytes]:
        """The session's keys and the ACCEPT frame. Raises `SessionError`."""
        secret = self._key.open(body, info=_INFO_LABEL + sha256(self._shown).digest())
        if len(secret) != SECRET_BYTES:
            _malformed("open", "client")
        transcript = sha256(self._shown + encode_frame(FrameType.OPEN, body)).digest()
        keys = derive_keys(secret, transcript=transcript)
        return keys, encode_frame(FrameType.ACCEPT, keys.confirmation)


def now() -> datetime:
    """The verification time of a live session."""
    return datetime.now(UTC)

"""The enclave that measures itself: booted as the one that serves, then it answers the benchmark instead of clients.

It is an image of its own with measurements of its own: no enclave that serves clients runs any of it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise
from typing import Any, Final

import numpy as np

from ephemeralml.attestation import KeyReleaseBinding
from ephemeralml.bench.suite.work import Answer, Question, Work, load_by_part, timed
from ephemeralml.enclave import __main__ as enclave
from ephemeralml.enclave.boot import Booted
from ephemeralml.enclave.issuer import Issuer
from ephemeralml.enclave.key_release import KeyRequest
from ephemeralml.enclave.kms_direct import DirectKms
from ephemeralml.enclave.security_module import SocketSecurityModule
from ephemeralml.enclave.upstream import Upstream
from ephemeralml.errors import KeyReleaseError
from ephemeralml.inference import Batcher
from ephemeralml.inference.weights import Array
from ephemeralml.package import KeyRecord, Reader
from ephemeralml.package.model import private_memory
from ephemeralml.package.open import Plaintext, decrypt_artifact
from ephemeralml.session.frames import HEADER, FrameType
from ephemeralml.session.messages import NONCE_BYTES, SALT_BYTES, EmbedRequest, EmbedResponse, Request, Response
from ephemeralml.session.records import Opener, Sealer
from ephemeralml.session.sockets import bound
from ephemeralml.session.transport import Address

_FETCH_BYTES: Final = 1 << 20


def main() -> int:
    """Boot and answer. Returns the exit status."""
    return enclave.main(measure)


def measure(booted: Booted, listen: Address, upstream: Upstream) -> None:
    """Answer the benchmark at `listen` for good."""
    listener = bound(listen)
    listener.listen()
    if isinstance(booted.module, SocketSecurityModule):
        # As the enclave that serves: it does not outlive the hypervisor's stand-in.
        threading.Thread(target=_end_with_hypervisor, daemon=True).start()
    work = Work(booted.encoder, Inside(booted, upstream).answers)
    upstream.report("ready", message=", ".join(f"{name} {value:.3f} ms" for name, value in booted.stages.items()))
    work.serve(listener)


class Inside:
    """What only the enclave can answer: key release, opening the package, and the parts of a sealed request."""

    def __init__(self, booted: Booted, upstream: Upstream) -> None:
        self._booted = booted
        self._upstream = upstream
        self.answers = {
            "release": self._release,
            "refused": self._refused,
            "load": self._load,
            "parts": self._parts,
        }

    def _ask_key(self, record: KeyRecord, spent: dict[str, list[float]]) -> bytes:
        """A key released now: fresh RSA key, fresh document, KMS asked, its answer opened; `spent` in ms."""
        manifest, module = self._booted.manifest, self._booted.module
        roots = self._booted.configuration.kms_roots
        ask = DirectKms(self._upstream, roots=roots).release if roots else self._upstream.release
        start = time.perf_counter()
        request = KeyRequest()
        made = time.perf_counter()
        binding = KeyReleaseBinding(package=manifest.package_id, model=manifest.digest)
        document = module.attest(public_key=request.public_key_der, user_data=binding.to_user_data())
        attested = time.perf_counter()
        key = request.open(ask(record, document))
        released = time.perf_counter()
        for name, seconds in (
            ("rsa_key", made - start),
            ("attestation", attested - made),
            ("key_release", released - attested),
        ):
            spent.setdefault(name, []).append(seconds * 1000)
        return key

    def _release(self, question: Question) -> Answer:
        """So many releases, each key seen to open the package: its smallest artifact is decrypted with it, untimed."""
        manifest = self._booted.manifest
        smallest = min(manifest.artifacts, key=lambda artifact: artifact.size)
        for_warming: dict[str, list[float]] = {}
        spent: dict[str, list[float]] = {}
        for number in range(question["warmups"] + question["iterations"]):
            key = self._ask_key(manifest.key, spent if number >= question["warmups"] else for_warming)
            with self._upstream.open(smallest.name) as read:
                decrypt_artifact(smallest, package_id=manifest.package_id, dek=key, read=read)
        return {"ms": spent, "asked": question["warmups"] + question["iterations"]}

    def _refused(self, _: Question) -> Answer:
        """The code with which a key is refused that is asked for under a context that is not the package's."""
        record = self._booted.manifest.key
        # Not through KeyRecord's own checks of the manifest: only KMS is to refuse it.
        wrong = KeyRecord(
            provider=record.provider,
            key_arn=record.key_arn,
            encryption_context={**record.encryption_context, "ephemeralml:package": "00" * 32},
            wrapped_dek=record.wrapped_dek,
        )
        try:
            self._ask_key(wrong, {})
        except KeyReleaseError as error:
            return {"refused": error.code}
        return {"refused": None}

    def _load(self, question: Question) -> Answer:
        """Fetch, decrypt, deserialise, tokenizer: what the boot overlaps, one after the other; ms of each round."""
        manifest = self._booted.manifest
        spent: dict[str, list[float]] = {}
        digests: dict[str, str] = {}
        for _ in range(question["rounds"]):
            dek = self._ask_key(manifest.key, {})
            fetched: dict[str, Plaintext] = {}
            spent.setdefault("fetch", []).append(timed(self._fetch, fetched))
            files: dict[str, Plaintext] = {}
            spent.setdefault("decrypt", []).append(timed(self._decrypt, fetched, files, dek))
            digests = {name: sha256(content).hexdigest() for name, content in files.items()}
            for part, value in load_by_part(files, manifest.spec).items():
                spent.setdefault(part, []).append(value)
        return {"ms": spent, "sha256": digests}

    def _fetch(self, into: dict[str, Plaintext]) -> None:
        for artifact in self._booted.manifest.artifacts:
            content = private_memory(artifact.ciphertext_size)
            filled = 0
            with self._upstream.open(artifact.name) as read:
                while piece := read(_FETCH_BYTES):
                    content[filled : filled + len(piece)] = piece
                    filled += len(piece)
            into[artifact.name] = content

    def _decrypt(self, fetched: dict[str, Plaintext], into: dict[str, Plaintext], dek: bytes) -> None:
        manifest = self._booted.manifest
        for artifact in manifest.artifacts:
            with memoryview(fetched[artifact.name]) as content:
                read = _reader(content)
                into[artifact.name] = decrypt_artifact(artifact, package_id=manifest.package_id, dek=dek, read=read)

    def _parts(self, question: Question) -> Answer:
        """Each part of a sealed request by itself, with the functions that serve one; ms.

        The queue is measured over an encoder that does nothing.
        """
        texts = list(question["texts"])
        encoder, issuer = self._booted.encoder, Issuer(self._booted)
        document = self._booted.module.attest(nonce=os.urandom(NONCE_BYTES))
        key, session = os.urandom(32), os.urandom(32)
        there, in_, out = Sealer(key, session), Opener(key, session), Sealer(key, session)
        body = EmbedRequest(tuple(texts), os.urandom(NONCE_BYTES), os.urandom(SALT_BYTES), None).to_bytes()
        spent: dict[str, list[float]] = {}
        # Nothing of an encoder but what the queue asks of one.
        idle: Any = _Idle(encoder.dimension)
        with Batcher(idle) as batcher:
            for number in range(question["warmups"] + question["iterations"]):
                record = there.seal(FrameType.REQUEST, Request(number, body).to_bytes())[HEADER.size :]
                stamps = [time.perf_counter()]
                asked = EmbedRequest.from_bytes(Request.from_bytes(in_.open(FrameType.REQUEST, record)).body)
                stamps.append(time.perf_counter())
                ids = encoder.tokenize(asked.texts)
                stamps.append(time.perf_counter())
                vectors = encoder.run(ids)
                stamps.append(time.perf_counter())
                embedded = batcher.submit(asked.texts).result()
                stamps.append(time.perf_counter())
                answer = EmbedResponse(vectors, embedded.tokens, os.urandom(SALT_BYTES)).to_bytes()
                stamps.append(time.perf_counter())
                receipt = issuer.issue(
                    document=document,
                    request=body,
                    response=answer,
                    nonce=asked.nonce,
                    sequence_number=number,
                    execution_ms=embedded.execution_ms,
                )
                stamps.append(time.perf_counter())
                out.seal(FrameType.RESPONSE, Response(number, answer, receipt).to_bytes())
                stamps.append(time.perf_counter())
                if number < question["warmups"]:
                    continue
                opened, tokenised, run, queued, encoded, issued, sealed = (
                    (after - before) * 1000 for before, after in pairwise(stamps)
                )
                for name, value in {
                    "open": opened,
                    "tokenise": tokenised,
                    "model": run,
                    "queue": queued,
                    "receipt": issued,
                    "seal": encoded + sealed,
                }.items():
                    spent.setdefault(name, []).append(value)
        return {"ms": spent}


class _Idle:
    """In an encoder's place under the queue: what then takes time is the queue."""

    tokens_per_run = 512

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [[0] for _ in texts]

    def group(self, lengths: Sequence[int]) -> list[list[int]]:
        return [list(range(len(lengths)))]

    def run(self, ids: Sequence[Sequence[int]]) -> Array:
        return np.zeros((len(ids), self.dimension), np.float32)


def _reader(content: memoryview) -> Reader:
    position = 0

    def read(size: int) -> bytes:
        nonlocal position
        piece = bytes(content[position : position + size])
        position += len(piece)
        return piece

    return read


def _end_with_hypervisor() -> None:
    sys.stdin.buffer.read()
    os._exit(0)

"""What the host does for its enclave, asked by the enclave's own half and by whoever knows the socket."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import IDLE, OWNER, make_manifest

from ephemeralml.codec import cbor
from ephemeralml.errors import KeyReleaseError, PackageError
from ephemeralml.exposition import read
from ephemeralml.host import kms as module
from ephemeralml.host.kms import ReleasedKey
from ephemeralml.host.metrics import HostMetrics
from ephemeralml.host.relay import Relay
from ephemeralml.host.services import Services
from ephemeralml.package import ArtifactSource, FolderSource, Manifest, Reader
from ephemeralml.session.hostlink import MESSAGE_BYTES, Ask, KeyAsk
from ephemeralml.session.transport import Address, listen, open_stream

ARN = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-0000-0000-000000000000"
ASK = KeyAsk(ARN, b"wrapped", {"a": "b"}, b"document")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "manifest.cose").write_bytes(b"signed")
    (folder / "model.safetensors.enc").write_bytes(bytes(range(256)) * 4096)
    return folder


class Host:
    def __init__(self, source: ArtifactSource, folder: Path) -> None:
        self.states: list[tuple[str, str, str]] = []
        self.metrics = HostMetrics()
        self._address = Address("unix", path=f"{folder}/services")
        self._services = Services(
            lambda: source, kms_endpoint="http://127.0.0.1:9", on_state=self._on_state, metrics=self.metrics
        )

    async def _on_state(self, state: str, code: str, message: str) -> None:
        self.states.append((state, code, message))

    def send(self, data: bytes) -> bytes:
        """All that comes back for those bytes."""

        async def main() -> bytes:
            server, _ = await listen(self._address, self._services.connected)
            try:
                reader, writer = await open_stream(self._address)
                writer.write(data)
                writer.write_eof()
                async with asyncio.timeout(10):
                    answer = await reader.read()
                writer.close()
                await writer.wait_closed()
                return answer
            finally:
                server.close()

        return asyncio.run(main())

    def hang_up_on(self, question: object) -> None:
        """Ask, take the beginning of what comes back, and leave; returns when the host has noticed."""

        async def main() -> None:
            server, _ = await listen(self._address, self._services.connected)
            try:
                reader, writer = await open_stream(self._address)
                message = cbor.encode(question)
                writer.write(struct.pack(">I", len(message)) + message)
                await reader.readexactly(4)
                writer.transport.abort()
                while self._services._connections:
                    await asyncio.sleep(0.01)
            finally:
                server.close()

        asyncio.run(main())

    def ask(self, question: object) -> tuple[dict[str, Any], bytes]:
        """The answer, and what follows it."""
        message = question if isinstance(question, bytes) else cbor.encode(question)
        data = self.send(struct.pack(">I", len(message)) + message)
        (length,) = struct.unpack(">I", data[:4])
        answer: Any = cbor.decode(data[4 : 4 + length])
        return answer, data[4 + length :]


@pytest.fixture
def host(package: Path, tmp_path: Path) -> Host:
    return Host(FolderSource(package), tmp_path)


def test_manifest(host: Host) -> None:
    assert host.ask({"ask": Ask.MANIFEST.value}) == ({"ok": {"manifest": b"signed"}}, b"")


def test_artifact_is_fed_whole(host: Host, package: Path) -> None:
    answer, data = host.ask({"ask": Ask.ARTIFACT.value, "name": "model.safetensors"})
    assert answer == {"ok": {}}
    assert data == (package / "model.safetensors.enc").read_bytes()


@pytest.mark.parametrize("name", ["other.bin", "../manifest.cose", "/etc/passwd", "", "a" * 5000, "a\0b"])
def test_only_artifacts_are_fed(host: Host, name: str) -> None:
    answer, data = host.ask({"ask": Ask.ARTIFACT.value, "name": name})
    assert set(answer) == {"error"}
    assert answer["error"]["code"] in {"artifact.name", "package.missing"}
    assert data == b""


class BreakingOff(FolderSource):
    """A source that fails once a first piece was read, as a network's does."""

    @contextmanager
    def open(self, name: str) -> Iterator[Reader]:
        pieces = iter([b"the first piece"])

        def read(_: int) -> bytes:
            if (piece := next(pieces, None)) is not None:
                return piece
            raise PackageError("S3 went away", code="s3.unreachable")

        yield read


def test_a_feed_that_breaks_off_just_ends_and_its_reason_is_the_operators(package: Path, tmp_path: Path) -> None:
    host = Host(BreakingOff(package), tmp_path)
    assert host.ask({"ask": Ask.ARTIFACT.value, "name": "model.safetensors"}) == ({"ok": {}}, b"the first piece")
    host.ask({"ask": Ask.STATE.value, "state": "failed", "code": "artifact.truncated", "message": "It ends."})
    assert host.states == [("failed", "s3.unreachable", "It ends. The feed broke off: S3 went away")]


class Endless(FolderSource):
    """A source that has more than a socket holds, whoever reads or not."""

    @contextmanager
    def open(self, name: str) -> Iterator[Reader]:
        yield bytes


def test_an_enclave_that_hangs_up_says_why_itself(package: Path, tmp_path: Path) -> None:
    host = Host(Endless(package), tmp_path)
    # It refuses a chunk in the middle of the feed.
    host.hang_up_on({"ask": Ask.ARTIFACT.value, "name": "model.safetensors"})
    host.ask({"ask": Ask.STATE.value, "state": "failed", "code": "artifact.authentication", "message": "Damaged."})
    assert host.states == [("failed", "artifact.authentication", "Damaged.")]


def test_what_nobody_foresaw_is_answered_without_a_traceback(package: Path, tmp_path: Path) -> None:
    class Broken(FolderSource):
        def manifest(self) -> bytes:
            raise RuntimeError("a secret")

    answer, _ = Host(Broken(package), tmp_path).ask({"ask": Ask.MANIFEST.value})
    assert answer == {"error": {"code": "internal", "message": "the host failed on this request (RuntimeError)"}}


def test_state_is_told(host: Host) -> None:
    asked = {"ask": Ask.STATE.value, "state": "failed", "code": "a.b", "message": "why"}
    assert host.ask(asked) == ({"ok": {}}, b"")
    assert host.states == [("failed", "a.b", "why")]


def value(host: Host, name: str, **labels: str) -> float:
    """Of the metrics, as Prometheus reads them."""
    text = host.metrics.render(Relay(None, on_closed=lambda _: None), serving=False)
    return read(text)[name, tuple(sorted(labels.items()))]


def test_a_report_is_counted(host: Host) -> None:
    report = replace(IDLE, sessions=7, sessions_open=2)
    assert host.ask(report.to_bytes()) == ({"ok": {}}, b"")
    assert value(host, "ephemeralml_sessions_total") == 7
    assert value(host, "ephemeralml_sessions") == 2


@pytest.mark.parametrize(
    "change",
    [
        {"sessions": -1},
        {"stages": [[2**53]] * 4},
        {"refused": [0] * 4000},
        {"boot": bytes(4096)},
        {f"label_{number}": number for number in range(2000)},
    ],
)
def test_a_hostile_report_is_refused_and_counts_for_nothing(host: Host, change: dict[str, Any]) -> None:
    before = host.ask(replace(IDLE, sessions=7).to_bytes())
    assert before == ({"ok": {}}, b"")
    told = cbor.decode(replace(IDLE, sessions=9).to_bytes())
    assert isinstance(told, dict)
    answer, _ = host.ask(told | change)
    assert answer["error"]["code"] == "hostlink.malformed"
    assert value(host, "ephemeralml_sessions_total") == 7
    assert value(host, "ephemeralml_host_errors_total", code="hostlink.malformed") == 1


def test_the_model_is_the_one_that_was_handed_to_the_enclave_that_became_ready(host: Host, package: Path) -> None:
    ready = {"ask": Ask.STATE.value, "state": "ready", "code": "", "message": ""}
    signed = make_manifest(model_id="tiny").sign(OWNER)
    (package / "manifest.cose").write_bytes(signed)
    host.ask({"ask": Ask.MANIFEST.value})
    (package / "manifest.cose").write_bytes(make_manifest(model_id="next").sign(OWNER))
    host.ask(ready)
    manifest = Manifest.verify(signed, owner=None)
    labels = {"model": "tiny", "version": "3", "precision": manifest.spec.precision}
    assert value(host, "ephemeralml_model_info", **labels, digest=manifest.digest.hex()) == 1


def test_an_enclave_that_says_it_serves_what_nobody_can_is_survived(host: Host) -> None:
    host.ask({"ask": Ask.MANIFEST.value})
    host.ask({"ask": Ask.STATE.value, "state": "ready", "code": "", "message": "b"})
    assert host.states == [("ready", "", "b")]


@contextmanager
def kms(monkeypatch: pytest.MonkeyPatch, release: Callable[..., ReleasedKey]) -> Iterator[list[dict[str, Any]]]:
    seen: list[dict[str, Any]] = []

    class Fake:
        def __init__(self, *, region: str, endpoint_url: str | None) -> None:
            seen.append({"region": region, "endpoint_url": endpoint_url})

        def decrypt_for_recipient(self, **arguments: Any) -> ReleasedKey:
            seen.append(arguments)
            return release()

    monkeypatch.setattr(module, "KmsClient", Fake)
    yield seen


def test_key_is_asked_of_kms_as_the_enclave_said(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    with kms(monkeypatch, lambda: ReleasedKey(ARN, b"sealed")) as seen:
        answer, _ = host.ask(ASK.to_bytes())
    assert answer == {"ok": {"key_arn": ARN, "ciphertext_for_recipient": b"sealed"}}
    assert value(host, "ephemeralml_key_releases_total", way="broker") == 1
    assert time.time() - value(host, "ephemeralml_attestation_timestamp_seconds", purpose="key-release") < 60
    assert seen == [
        {"region": "us-east-1", "endpoint_url": "http://127.0.0.1:9"},
        {
            "key_arn": ARN,
            "wrapped_dek": b"wrapped",
            "encryption_context": {"a": "b"},
            "attestation_document": b"document",
        },
    ]


def test_a_prepared_client_is_the_one_that_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "manifest.cose").write_bytes(make_manifest().sign(OWNER))

    async def on_state(*_: str) -> None:
        raise AssertionError

    with kms(monkeypatch, lambda: ReleasedKey(ARN, b"sealed")) as seen:
        services = Services(lambda: FolderSource(tmp_path), kms_endpoint=None, on_state=on_state, metrics=HostMetrics())
        services.prepare()
        services.prepare()
        assert seen == [{"region": "us-east-1", "endpoint_url": None}]
        # Nothing to prepare for is no failure: the enclave's own question says what is wrong.
        Services(
            lambda: FolderSource(tmp_path / "none"), kms_endpoint=None, on_state=on_state, metrics=HostMetrics()
        ).prepare()
    assert len(seen) == 1


def test_a_refusal_of_kms_is_passed_on(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> ReleasedKey:
        raise KeyReleaseError("not for you", code="kms.access_denied")

    with kms(monkeypatch, refuse):
        answer, _ = host.ask(ASK.to_bytes())
    assert answer == {"error": {"code": "kms.access_denied", "message": "not for you"}}
    assert value(host, "ephemeralml_key_releases_total", way="broker") == 0
    assert value(host, "ephemeralml_host_errors_total", code="kms.access_denied") == 1


@pytest.mark.parametrize(
    "question",
    [
        b"",
        b"\xff",
        [],
        {},
        {"ask": 0},
        {"ask": 99},
        {"ask": "MANIFEST"},
        {"ask": Ask.ARTIFACT.value},
        {"ask": Ask.ARTIFACT.value, "name": b"model.safetensors"},
        {"ask": Ask.KEY.value},
        {"ask": Ask.STATE.value, "state": "ready"},
        {"ask": Ask.STATE.value, "state": 1, "code": "", "message": ""},
    ],
)
def test_malformed_questions(host: Host, question: object) -> None:
    answer, _ = host.ask(question)
    assert answer["error"]["code"] == "hostlink.malformed"
    assert host.states == []


def test_an_oversized_question_is_refused_unread(host: Host) -> None:
    data = host.send(struct.pack(">I", MESSAGE_BYTES + 1))
    assert b"hostlink.malformed" in data


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=100))
def test_any_bytes_are_survived(host: Host, data: bytes) -> None:
    host.send(data)
    assert host.ask({"ask": Ask.MANIFEST.value})[0] == {"ok": {"manifest": b"signed"}}


def test_a_manifest_that_the_link_cannot_carry_is_an_error(host: Host, package: Path) -> None:
    (package / "manifest.cose").write_bytes(bytes(MESSAGE_BYTES))
    answer, _ = host.ask({"ask": Ask.MANIFEST.value})
    assert answer["error"]["code"] in {"hostlink.too_large", "manifest.too_large"}

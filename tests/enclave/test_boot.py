"""A boot ends with the owner's model in memory or a refusal: the host can choose what it offers, not what runs."""

from __future__ import annotations

import fcntl
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256, sha384
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key
from nsm_driver import NsmDriver

from ephemeralml.attestation import AttestationDocument, KeyReleaseBinding, chain
from ephemeralml.codec import cbor
from ephemeralml.devcloud.kms.cms import envelope
from ephemeralml.devcloud.nsm import SoftwareNsm
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.enclave import upstream as module
from ephemeralml.enclave.boot import Booted, boot
from ephemeralml.enclave.configuration import Configuration
from ephemeralml.enclave.issuer import Issuer
from ephemeralml.enclave.nsm import NitroSecurityModule
from ephemeralml.enclave.security_module import SecurityModule, SecurityModuleError
from ephemeralml.enclave.upstream import Upstream
from ephemeralml.errors import EphemeralMLError, KeyReleaseError, PackageError, PlatformError, TransportError
from ephemeralml.inference import Encoder
from ephemeralml.package import DataKey, FolderSource, Manifest, pack, read_model_spec
from ephemeralml.package.model import CONFIG_FILES
from ephemeralml.receipts import Claims, verify_receipt
from ephemeralml.session.blocking import read_exactly
from ephemeralml.session.hostlink import Ask, failure, success
from ephemeralml.session.transport import Address

OWNER, STRANGER = (Ed25519PrivateKey.from_private_bytes(bytes((byte,)) * 32) for byte in (1, 2))
ARN = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-0000-0000-000000000000"
DEK = bytes(range(32))


class Keys:
    """A key service that always has the same key."""

    def generate_data_key(self, encryption_context: Mapping[str, str]) -> DataKey:
        assert encryption_context
        return DataKey(plaintext=DEK, wrapped=b"wrapped", key_arn=ARN, provider="aws-kms")


class Module(SecurityModule):
    """A software NSM without a socket, whose clock is `ahead`."""

    def __init__(self, *, ahead: timedelta = timedelta()) -> None:
        super().__init__()
        self._nsm = SoftwareNsm(DevelopmentRoot.create(), {}, clock=lambda: datetime.now(UTC) + ahead)

    def _exchange(self, request: bytes) -> bytes:
        return self._nsm.handle(request)


@dataclass
class Host:
    """The host's end of each exchange; every answer can be changed."""

    folder: Path
    changes: dict[Ask, Callable[[dict[str, Any]], bytes]] = field(default_factory=dict)
    artifact: Callable[[str, bytes], bytes] = lambda _, data: data
    asked: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, question: dict[str, Any]) -> tuple[bytes, bytes]:
        self.asked.append(question)
        ask = Ask(question["ask"])
        if ask in self.changes:
            return self.changes[ask](question), b""
        if ask is Ask.MANIFEST:
            return success(manifest=FolderSource(self.folder).manifest()), b""
        if ask is Ask.KEY:
            return release(question), b""
        name = question["name"]
        return success(), self.artifact(name, (self.folder / f"{name}.enc").read_bytes())


def release(question: dict[str, Any], *, dek: bytes = DEK, arn: str = ARN) -> bytes:
    """What the broker answers when KMS agrees; anybody on the host can make one for any key."""
    key = load_der_public_key(AttestationDocument.parse(question["document"]).public_key or b"")
    assert isinstance(key, RSAPublicKey)
    return success(key_arn=arn, ciphertext_for_recipient=envelope(dek, key))


def converse(host: Host, theirs: socket.socket) -> None:
    """The host's side of one exchange; the enclave may hang up at any moment."""
    with theirs, suppress(OSError):
        size = int.from_bytes(read_exactly(theirs, 4))
        message, rest = host.answer(cast("Any", cbor.decode(read_exactly(theirs, size))))
        theirs.sendall(len(message).to_bytes(4) + message + rest)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Callable[..., Path]:
    """Packs the tiny model once per owner and version."""
    made: dict[tuple[bytes, int], Path] = {}

    def make(*, owner: Ed25519PrivateKey = OWNER, version: int = 2) -> Path:
        at = (owner.private_bytes_raw(), version)
        if at not in made:
            files = {name: (tiny_model / name).read_bytes() for name in CONFIG_FILES if (tiny_model / name).is_file()}
            made[at] = tmp_path_factory.mktemp("packed") / "package"
            spec = read_model_spec(files)
            pack(tiny_model, made[at], owner_key=owner, version=version, keys=Keys(), spec=spec, model_id="tiny")
        return made[at]

    return make


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Booted]:
    def run(
        host: Host,
        *,
        minimum: int = 1,
        model_id: str | None = None,
        security_module: SecurityModule | None = None,
        kms_roots: tuple[bytes, ...] = (),
    ) -> Booted:
        @contextmanager
        def connect(_: Address, *, timeout: float) -> Iterator[socket.socket]:
            ours, theirs = socket.socketpair()
            ours.settimeout(timeout)
            conversation = threading.Thread(target=converse, args=(host, theirs))
            conversation.start()
            with ours:
                yield ours
            conversation.join()

        monkeypatch.setattr(module, "connect", connect)
        configuration = Configuration(
            model_owner=OWNER.public_key().public_bytes_raw(),
            model_id=model_id,
            minimum_model_version=minimum,
            kms_roots=kms_roots,
        )
        return boot(configuration, module=security_module or Module(), upstream=Upstream(Address("unix", path="/none")))

    return run


def refused(start: Callable[..., Booted], host: Host, **options: Any) -> EphemeralMLError:
    with pytest.raises(EphemeralMLError) as caught:
        start(host, **options)
    return caught.value


def test_the_owners_model_runs(start: Callable[..., Booted], package: Callable[..., Path], tiny_model: Path) -> None:
    host = Host(package())
    booted = start(host)
    np.testing.assert_allclose(
        booted.encoder.encode(["a text"]), Encoder.from_folder(tiny_model).encode(["a text"]), atol=1e-6
    )
    assert booted.manifest.version == 2
    assert Manifest.verify(booted.signed_manifest, owner=OWNER.public_key().public_bytes_raw()) == booted.manifest
    assert set(booted.stages) == {"manifest", "attestation", "key_release", "fetch_and_decrypt", "load"}
    assert "receipt_key" not in repr(booted)
    assert len(booted.boot_id) == 16
    again = start(Host(package()))
    assert again.boot_id != booted.boot_id
    assert again.receipt_key.private_bytes_raw() != booted.receipt_key.private_bytes_raw()


def test_the_key_is_asked_for_this_package_alone(start: Callable[..., Booted], package: Callable[..., Path]) -> None:
    host = Host(package())
    manifest = start(host).manifest
    [asked] = [question for question in host.asked if question["ask"] == Ask.KEY]
    document = AttestationDocument.parse(asked["document"])
    binding = KeyReleaseBinding(package=manifest.package_id, model=manifest.digest)
    assert document.user_data == binding.to_user_data()
    assert asked["key_arn"] == ARN
    assert asked["encryption_context"] == dict(manifest.key.encryption_context)


def test_the_registers_name_model_and_configuration_before_the_key_is_asked_for(
    start: Callable[..., Booted], package: Callable[..., Path]
) -> None:
    host = Host(package())
    booted = start(host)
    [asked] = [question for question in host.asked if question["ask"] == Ask.KEY]
    pcrs = AttestationDocument.parse(asked["document"]).pcrs
    assert pcrs[16] == sha384(bytes(48) + booted.manifest.digest).digest()
    assert pcrs[17] == sha384(bytes(48) + booted.configuration.digest).digest()
    assert set(pcrs) == set(range(32))
    with pytest.raises(SecurityModuleError):
        booted.module.extend(18, b"later")


def test_a_second_boot_in_one_enclave_is_refused(start: Callable[..., Booted], package: Callable[..., Path]) -> None:
    module = Module()
    start(Host(package()), security_module=module)
    host = Host(package())
    assert refused(start, host, security_module=module).code == "nsm.read_only_index"
    assert [question["ask"] for question in host.asked] == [Ask.MANIFEST]


@pytest.mark.parametrize("minutes", [-60, -2, 2, 60])
def test_a_clock_that_is_off_is_refused_before_the_key_is_asked_for(
    start: Callable[..., Booted], package: Callable[..., Path], minutes: int
) -> None:
    host = Host(package())
    error = refused(start, host, security_module=Module(ahead=timedelta(minutes=minutes)))
    assert isinstance(error, PlatformError)
    assert error.code == "clock.drift"
    assert [question["ask"] for question in host.asked] == [Ask.MANIFEST]


def issue(booted: Booted) -> Claims:
    receipt = Issuer(booted).issue(
        document=b"d", request=b"q", response=b"a", nonce=b"n" * 16, sequence_number=0, execution_ms=1
    )
    return verify_receipt(receipt, public_key=booted.receipt_key.public_key()).claims


def test_a_receipt_carries_the_modules_time(start: Callable[..., Booted], package: Callable[..., Path]) -> None:
    booted = start(Host(package()), security_module=Module(ahead=timedelta(seconds=-40)))
    assert issue(booted).iat - time.time() == pytest.approx(-40, abs=5)


def test_no_receipt_is_dated_by_a_clock_that_went_off(
    start: Callable[..., Booted], package: Callable[..., Path]
) -> None:
    booted = start(Host(package()))
    issue(booted)
    later = datetime.now(UTC) + timedelta(minutes=2)
    with pytest.raises(PlatformError):
        booted.module.clock.compare(later, asked=time.monotonic(), answered=time.monotonic(), system=time.time())
    with pytest.raises(PlatformError):
        issue(booted)


def test_the_device_of_an_enclave_boots_the_same(
    start: Callable[..., Booted], package: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "nsm"
    path.touch()
    nsm = SoftwareNsm(DevelopmentRoot.create(), {0: b"\x01" * 48, 1: b"\x02" * 48, 2: b"\x03" * 48})
    monkeypatch.setattr(fcntl, "ioctl", NsmDriver(path, nsm.handle).ioctl)
    with path.open("rb") as device:
        booted = start(Host(package()), security_module=NitroSecurityModule(device.fileno()))
        claims = issue(booted)
    assert claims.security_mode == "evaluation"
    assert claims.enclave_measurements.pcr2 == b"\x03" * 48
    assert claims.iat == pytest.approx(time.time(), abs=5)


@pytest.mark.parametrize(("pcr0", "mode"), [(b"\x01" * 48, "production"), (bytes(48), "evaluation")])
def test_production_is_under_the_pinned_root_without_debug_mode(
    start: Callable[..., Booted],
    package: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    pcr0: bytes,
    mode: str,
) -> None:
    root = DevelopmentRoot.create()
    module = Module()
    module._nsm = SoftwareNsm(root, {0: pcr0})
    assert issue(start(Host(package()), security_module=module)).security_mode == "evaluation"
    monkeypatch.setattr(chain, "AWS_NITRO_ROOT_G1_SHA256", sha256(root.der).digest())
    module._nsm = SoftwareNsm(root, {0: pcr0})
    assert issue(start(Host(package()), security_module=module)).security_mode == mode


def test_an_older_version_is_refused(start: Callable[..., Booted], package: Callable[..., Path]) -> None:
    host = Host(package())
    error = refused(start, host, minimum=3)
    assert isinstance(error, PackageError)
    assert error.code == "manifest.rollback"
    # No key was asked for.
    assert [question["ask"] for question in host.asked] == [Ask.MANIFEST]
    assert start(host, minimum=2).manifest.version == 2


def test_another_model_of_the_same_owner_is_refused(start: Callable[..., Booted], package: Callable[..., Path]) -> None:
    host = Host(package())
    error = refused(start, host, model_id="large")
    assert isinstance(error, PackageError)
    assert error.code == "manifest.model_id"
    # No key was asked for.
    assert [question["ask"] for question in host.asked] == [Ask.MANIFEST]
    assert start(host, model_id="tiny").manifest.model_id == "tiny"


def test_another_owners_package_is_refused(start: Callable[..., Booted], package: Callable[..., Path]) -> None:
    host = Host(package(owner=STRANGER))
    assert isinstance(refused(start, host), PackageError)
    assert [question["ask"] for question in host.asked] == [Ask.MANIFEST]


@pytest.mark.parametrize("position", [10, 100, -1])
def test_a_changed_manifest_is_refused(
    start: Callable[..., Booted], package: Callable[..., Path], position: int
) -> None:
    signed = bytearray(FolderSource(package()).manifest())
    signed[position] ^= 1
    host = Host(package(), changes={Ask.MANIFEST: lambda _: success(manifest=bytes(signed))})
    assert isinstance(refused(start, host), PackageError)


ARTIFACTS: dict[str, tuple[Callable[[str, bytes], bytes], str]] = {
    "flipped": (lambda _, data: data[:-1] + bytes((data[-1] ^ 1,)), "artifact.authentication"),
    "truncated": (lambda _, data: data[:-1], "artifact.truncated"),
    "extended": (lambda _, data: data + b"x", "artifact.extended"),
    "empty": (lambda _, data: data[:0], "artifact.truncated"),
    "header": (lambda _, data: b"x" + data[1:], "artifact.header"),
}


@pytest.mark.parametrize("name", ARTIFACTS)
def test_a_tampered_artifact_is_refused(start: Callable[..., Booted], package: Callable[..., Path], name: str) -> None:
    change, code = ARTIFACTS[name]
    error = refused(start, Host(package(), artifact=change))
    assert isinstance(error, PackageError)
    assert error.code == code


def test_an_artifact_of_another_version_is_refused(start: Callable[..., Booted], package: Callable[..., Path]) -> None:
    other = package(version=3)
    host = Host(package(), artifact=lambda name, _: (other / f"{name}.enc").read_bytes())
    assert refused(start, host).code == "artifact.header"


def test_a_key_the_host_made_itself_does_not_open_the_package(
    start: Callable[..., Booted], package: Callable[..., Path]
) -> None:
    # Anyone can encrypt to the public key in the document: only the owner's package tells the right key.
    host = Host(package(), changes={Ask.KEY: lambda question: release(question, dek=b"f" * 32)})
    error = refused(start, host)
    assert isinstance(error, PackageError)
    assert error.code == "artifact.authentication"


def plaintext(_: dict[str, Any]) -> bytes:
    return success(key_arn=ARN, plaintext=DEK)


def plaintext_too(question: dict[str, Any]) -> bytes:
    answer: Any = cbor.decode(release(question))
    return success(**answer["ok"], plaintext=DEK)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (plaintext, "key_release.answer"),
        (plaintext_too, "key_release.answer"),
        (lambda _: success(key_arn=ARN, ciphertext_for_recipient="text"), "key_release.answer"),
        (lambda _: success(), "key_release.answer"),
        (lambda question: release(question, arn=ARN.replace("us-east-1", "eu-west-1")), "key_release.key_id"),
        (lambda question: release(question, arn=ARN[:-1] + "1"), "key_release.key_id"),
        (lambda question: release(question, dek=DEK + b"x"), "key_release.envelope"),
        (lambda _: success(key_arn=ARN, ciphertext_for_recipient=b"garbage"), "key_release.envelope"),
        (lambda _: success(key_arn=ARN, ciphertext_for_recipient=b""), "key_release.envelope"),
        (lambda _: failure("kms.access_denied", "no"), "kms.access_denied"),
        (lambda _: b"garbage", "hostlink.malformed"),
    ],
)
def test_a_broker_that_answers_something_else(
    start: Callable[..., Booted],
    package: Callable[..., Path],
    answer: Callable[[dict[str, Any]], bytes],
    code: str,
) -> None:
    error = refused(start, Host(package(), changes={Ask.KEY: answer}))
    assert isinstance(error, KeyReleaseError)
    assert error.code == code
    assert DEK.hex() not in str(error)


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: failure("kms.tunnel", "this host has no tunnel"),
        # Whatever else it says: a key of the broker's is none here.
        lambda _: success(),
        lambda _: success(key_arn=ARN, ciphertext_for_recipient=b"sealed"),
        lambda _: success(access_key_id="A" * 20, secret_access_key="s", session_token="t"),
    ],
)
def test_an_enclave_with_roots_of_kms_never_asks_the_broker(
    start: Callable[..., Booted], package: Callable[..., Path], answer: Callable[[dict[str, Any]], bytes]
) -> None:
    host = Host(package(), changes={Ask.TUNNEL: answer})
    error = refused(start, host, kms_roots=(DevelopmentRoot.create().der,))
    assert isinstance(error, KeyReleaseError)
    assert error.code in {"kms.tunnel", "hostlink.malformed", "kms.unreachable"}
    assert [question["ask"] for question in host.asked] == [Ask.MANIFEST, Ask.TUNNEL]


def test_an_answer_to_another_boot_is_refused(start: Callable[..., Booted], package: Callable[..., Path]) -> None:
    recorded: list[bytes] = []

    def record(question: dict[str, Any]) -> bytes:
        recorded.append(release(question))
        return recorded[0]

    start(Host(package(), changes={Ask.KEY: record}))
    error = refused(start, Host(package(), changes={Ask.KEY: record}))
    assert error.code == "key_release.envelope"


@pytest.mark.parametrize(
    "answer",
    [b"", b"\xff", cbor.encode([]), cbor.encode({}), cbor.encode({"ok": 1}), cbor.encode({"error": 1}), success()],
)
def test_a_host_that_makes_no_sense(start: Callable[..., Booted], package: Callable[..., Path], answer: bytes) -> None:
    error = refused(start, Host(package(), changes={Ask.MANIFEST: lambda _: answer}))
    assert isinstance(error, TransportError)
    assert error.code == "hostlink.malformed"


def test_an_answer_larger_than_the_link_is_not_read(start: Callable[..., Booted], package: Callable[..., Path]) -> None:
    host = Host(package(), changes={Ask.MANIFEST: lambda _: success(manifest=bytes(1 << 17))})
    assert refused(start, host).code == "hostlink.malformed"


def test_a_report_nobody_hears_changes_nothing(tmp_path: Path) -> None:
    Upstream(Address("unix", path=f"{tmp_path}/nobody")).report("failed", code="a", message="b")

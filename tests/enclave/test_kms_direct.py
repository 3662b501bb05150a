"""The enclave's own TLS to KMS through a real host's tunnel: the key comes from KMS, or it does not come."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from samples import OWNER, make_manifest
from tls import KMS_NAME, Authority, Handler, Loop, forwarding, replying
from tunnels import tunnelling

from ephemeralml.codec import cbor
from ephemeralml.devcloud.kms import Credential, KmsServer
from ephemeralml.devcloud.nsm import SoftwareNsm
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.enclave import kms_direct as module
from ephemeralml.enclave.key_release import KeyRequest
from ephemeralml.enclave.kms_direct import DirectKms
from ephemeralml.enclave.upstream import Upstream
from ephemeralml.errors import KeyReleaseError
from ephemeralml.package import KeyRecord
from ephemeralml.session.hostlink import success
from ephemeralml.session.transport import Address

ROLE = Credential("ASIA" + "R" * 16, "role-secret", "arn:aws:iam::000000000000:role/host", "role-token")
ADMIN = Credential("AKIA" + "A" * 16, "admin-secret", "arn:aws:iam::000000000000:user/owner")
CONTEXT = dict(make_manifest().key.encryption_context)
DEK = bytes(range(32))
PCR0 = b"\x01" * 48


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ROLE.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ROLE.secret_access_key)
    monkeypatch.setenv("AWS_SESSION_TOKEN", ROLE.session_token)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    with Loop() as made:
        yield made


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def root() -> DevelopmentRoot:
    return DevelopmentRoot.create()


@dataclass
class Kms:
    """devcloud's KMS behind TLS, with a key that only PCR0 opens."""

    plain_port: int
    record: KeyRecord
    client: Any = field(repr=False)


@pytest.fixture(scope="module")
def kms(tmp_path_factory: pytest.TempPathFactory, root: DevelopmentRoot) -> Iterator[Kms]:
    store = tmp_path_factory.mktemp("kms") / "keys"
    with KmsServer(store=store, credentials=[ROLE, ADMIN], roots=[root.der]) as server:
        client: Any = boto3.session.Session().client(
            "kms",
            endpoint_url=server.url,
            region_name=server.region,
            aws_access_key_id=ADMIN.access_key_id,
            aws_secret_access_key=ADMIN.secret_access_key,
        )
        statements = [
            {
                "Effect": "Allow",
                "Principal": {"AWS": ADMIN.principal_arn},
                "Action": ["kms:PutKeyPolicy", "kms:Encrypt"],
                "Resource": "*",
            },
            {
                "Effect": "Allow",
                "Principal": {"AWS": ROLE.principal_arn},
                "Action": "kms:Decrypt",
                "Resource": "*",
                "Condition": {"StringEqualsIgnoreCase": {"kms:RecipientAttestation:ImageSha384": PCR0.hex()}},
            },
        ]
        policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
        arn = client.create_key(Policy=policy)["KeyMetadata"]["Arn"]
        wrapped = client.encrypt(KeyId=arn, Plaintext=DEK, EncryptionContext=CONTEXT)["CiphertextBlob"]
        record = KeyRecord(provider="aws-kms", key_arn=arn, encryption_context=CONTEXT, wrapped_dek=wrapped)
        yield Kms(int(server.url.rpartition(":")[2]), record, client)
        client.close()


@pytest.fixture(scope="module")
def document(root: DevelopmentRoot) -> Callable[..., bytes]:
    def make(request: KeyRequest, pcr0: bytes = PCR0) -> bytes:
        fields = {"user_data": None, "nonce": None, "public_key": request.public_key_der}
        answer: Any = cbor.decode_foreign(SoftwareNsm(root, {0: pcr0}).handle(cbor.encode({"Attestation": fields})))
        made: bytes = answer["Attestation"]["document"]
        return made

    return make


@pytest.fixture
def host(loop: Loop, tmp_path: Path, kms: Kms) -> Callable[..., Upstream]:
    """A real host, which tunnels to the server at that port, as an enclave sees it."""

    def make(port: int, *, tunnel: bool = True) -> Upstream:
        signed = replace(make_manifest(), key=kms.record).sign(OWNER)
        return Upstream(tunnelling(loop, tmp_path, manifest=signed, port=port, tunnel=tunnel))

    return make


@pytest.fixture
def reach(loop: Loop, authority: Authority, host: Callable[..., Upstream]) -> Callable[..., DirectKms]:
    """An enclave that trusts `authority`, behind that host, and a server with that certificate for KMS."""

    def make(handler: Handler, context: ssl.SSLContext | None = None) -> DirectKms:
        return DirectKms(host(loop.serve(handler, context or authority.server(KMS_NAME))), roots=[authority.der])

    return make


def refusal(kms: DirectKms, record: KeyRecord, document: bytes = b"document") -> KeyReleaseError:
    with pytest.raises(KeyReleaseError) as caught:
        kms.release(record, document)
    for secret in (ROLE.secret_access_key, ROLE.session_token, ROLE.access_key_id):
        assert secret not in str(caught.value)
    return caught.value


def answer(record: KeyRecord, **changes: object) -> bytes:
    body = {"KeyId": record.key_arn, "CiphertextForRecipient": base64.b64encode(b"sealed").decode(), **changes}
    return http(json.dumps({name: value for name, value in body.items() if value is not None}).encode())


def http(body: bytes, status: bytes = b"200 OK", head: bytes = b"") -> bytes:
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status, head, len(body), body)


def test_kms_releases_to_the_right_enclave_and_the_host_carries_ciphertext(
    loop: Loop, authority: Authority, kms: Kms, document: Callable[..., bytes], host: Callable[..., Upstream]
) -> None:
    inside: tuple[list[bytes], list[bytes]] = ([], [])
    outside: tuple[list[bytes], list[bytes]] = ([], [])
    port = loop.serve(forwarding(kms.plain_port, inside), authority.server(KMS_NAME))
    direct = DirectKms(host(loop.serve(forwarding(port, outside))), roots=[authority.der])
    request = KeyRequest()
    shown = document(request)
    assert request.open(direct.release(kms.record, shown)) == DEK
    # The test's own server sees the request in the clear, the host's tunnel does not.
    for said in (base64.b64encode(shown), kms.record.key_arn.encode(), ROLE.session_token.encode(), b"TrentService"):
        assert said in b"".join(inside[0])
        assert said not in b"".join(outside[0])
    assert b"CiphertextForRecipient" in b"".join(inside[1])
    assert b"CiphertextForRecipient" not in b"".join(outside[1])


def test_refusals_of_kms_have_the_brokers_codes(
    kms: Kms, document: Callable[..., bytes], reach: Callable[..., DirectKms], monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = reach(forwarding(kms.plain_port))
    right, wrong = document(KeyRequest()), document(KeyRequest(), b"\x02" * 48)
    assert refusal(direct, kms.record, wrong).code == "kms.access_denied"
    assert refusal(direct, kms.record).code == "kms.validation"
    other = replace(kms.record, encryption_context={"a": "b"})
    assert refusal(direct, other, right).code == "kms.ciphertext"
    unknown = replace(kms.record, key_arn=kms.record.key_arn[:-36] + "00000000-0000-0000-0000-000000000000")
    assert refusal(direct, unknown, right).code == "kms.not_found"
    monkeypatch.setenv("AWS_SESSION_TOKEN", "another")
    assert refusal(direct, kms.record, right).code == "kms.credentials"
    monkeypatch.setenv("AWS_SESSION_TOKEN", ROLE.session_token)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert refusal(direct, kms.record, right).code == "kms.credentials"


def test_a_host_that_ends_the_tls_itself(
    loop: Loop, authority: Authority, kms: Kms, host: Callable[..., Upstream], tmp_path: Path
) -> None:
    asked: list[bytes] = []
    false = Authority(tmp_path)
    upstream = host(loop.serve(replying(answer(kms.record), asked=asked), false.server(KMS_NAME)))
    assert refusal(DirectKms(upstream, roots=[authority.der]), kms.record).code == "kms.identity"
    # Not even the request was said; and nothing but the root was wrong.
    assert asked == []
    assert DirectKms(upstream, roots=[authority.der, false.der]).release(kms.record, b"document") == b"sealed"


def test_the_systems_roots_do_not_count(
    kms: Kms, reach: Callable[..., DirectKms], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = Authority(tmp_path)
    store = tmp_path / "system.pem"
    store.write_text(ssl.DER_cert_to_PEM_cert(stranger.der))
    monkeypatch.setenv("SSL_CERT_FILE", str(store))
    ours = reach(replying(answer(kms.record)), stranger.server(KMS_NAME))
    assert refusal(ours, kms.record).code == "kms.identity"
    # The store is in force: who asks it is convinced.
    ours._tls.load_default_certs()
    assert ours.release(kms.record, b"document") == b"sealed"


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (["kms.eu-west-1.amazonaws.com"], {}),
        (["us-east-1.amazonaws.com"], {}),
        (["*.amazonaws.com"], {}),
        (["127.0.0.1"], {}),
        ([], {"common_name": KMS_NAME}),
        ([KMS_NAME], {"lasts": timedelta(minutes=-1)}),
        ([KMS_NAME], {"starts": timedelta(hours=1)}),
    ],
)
def test_certificates_that_are_not_kmss(
    authority: Authority, kms: Kms, reach: Callable[..., DirectKms], names: list[str], options: dict[str, Any]
) -> None:
    asked: list[bytes] = []
    error = refusal(reach(replying(answer(kms.record), asked=asked), authority.server(*names, **options)), kms.record)
    assert error.code == "kms.identity"
    assert KMS_NAME in str(error)
    assert asked == []


def test_old_tls_is_refused(authority: Authority, kms: Kms, reach: Callable[..., DirectKms]) -> None:
    context = authority.server(KMS_NAME)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    direct = reach(replying(answer(kms.record)), context)
    assert refusal(direct, kms.record).code == "kms.unreachable"
    # The server is able to: it is the enclave that is not willing.
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        direct._tls.minimum_version = ssl.TLSVersion.TLSv1_1
    direct._tls.set_ciphers("ALL:@SECLEVEL=0")
    assert direct.release(kms.record, b"document") == b"sealed"


OTHER_ARN = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-0000-0000-000000000001"
HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (answer, None),
        (lambda record: answer(record, Plaintext=None), None),
        (lambda record: answer(record, Plaintext=base64.b64encode(DEK).decode()), "kms.answer"),
        (lambda record: answer(record, KeyId=OTHER_ARN), "kms.answer"),
        (lambda record: answer(record, KeyId=None), "kms.answer"),
        (lambda record: answer(record, CiphertextForRecipient=None), "kms.answer"),
        (lambda record: answer(record, CiphertextForRecipient=""), "kms.answer"),
        (lambda record: answer(record, CiphertextForRecipient="*"), "kms.answer"),
        (lambda record: answer(record, CiphertextForRecipient="AAAA*"), "kms.answer"),
        (lambda record: answer(record, CiphertextForRecipient=7), "kms.answer"),
        (lambda record: answer(record, CiphertextForRecipient=["AAAA"]), "kms.answer"),
        (lambda record: answer(record, CiphertextForRecipient="\xe9"), "kms.answer"),
        (lambda _: http(b""), "kms.answer"),
        (lambda _: http(b"[]"), "kms.answer"),
        (lambda _: http(b"\xff{}"), "kms.answer"),
        (lambda _: http(b"[" * 60_000), "kms.answer"),
        (lambda _: http(b"<html>", b"503 Busy"), "kms.answer"),
        (lambda _: http(b"{}", b"302 Found", b"Location: https://elsewhere/\r\n"), "kms.refused"),
        (lambda _: http(b'{"__type": "a.b#AccessDeniedException"}', b"400 Bad"), "kms.access_denied"),
        (lambda _: http(b'{"__type": "x\\u001b[2J"}', b"400 Bad"), "kms.refused"),
        (lambda _: http(b'{"__type": 7}', b"500 Bad"), "kms.unavailable"),
        (lambda record: answer(record).replace(b"1.1", b"1.0"), "kms.answer"),
        (lambda record: answer(record) + b"HTTP/1.1 200 OK\r\n", "kms.answer"),
        (lambda record: answer(record)[:-1], "kms.unreachable"),
        (lambda record: answer(record)[:20], "kms.unreachable"),
        (lambda _: b"", "kms.unreachable"),
        (lambda _: HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "kms.answer"),
        (lambda _: HEAD + b"X: " + b"a" * 100_000 + b"\r\n", "kms.answer"),
        (lambda _: HEAD + b"Content-Length: 999999\r\n\r\n" + b" " * 100_000, "kms.answer"),
        (lambda _: b"SSH-2.0-OpenSSH\r\n\r\n", "kms.answer"),
    ],
)
def test_answers(
    kms: Kms, reach: Callable[..., DirectKms], make: Callable[[KeyRecord], bytes], code: str | None
) -> None:
    direct = reach(replying(make(kms.record)))
    if code is None:
        assert direct.release(kms.record, b"document") == b"sealed"
        return
    error = refusal(direct, kms.record)
    assert error.code == code
    assert "\x1b" not in str(error)
    assert base64.b64encode(DEK).decode() not in str(error)


def silent(pieces: bytes = b"") -> Handler:
    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(bytes([piece]))
            await writer.drain()
            await asyncio.sleep(0.02)
        await asyncio.sleep(3)

    return handler


# Each byte comes within any limit of its own. In 3 s all of them are there, and whoever still waits sees another end.
DRIP = [bytes([byte]) for byte in HEAD + b"X: " + b"a" * 130]


@pytest.mark.parametrize(
    ("handler", "tls"),
    [
        (silent(), False),
        (silent(b"\x16\x03\x03\x40\x00" + bytes(145)), False),
        (silent(), True),
        (replying(*DRIP, pause=0.02), True),
    ],
    ids=["silent", "drip of a handshake", "silent in TLS", "drip of an answer"],
)
def test_the_whole_release_has_a_deadline(
    loop: Loop, authority: Authority, kms: Kms, host: Callable[..., Upstream], handler: Handler, *, tls: bool
) -> None:
    port = loop.serve(handler, authority.server(KMS_NAME) if tls else None)
    direct = DirectKms(host(port), roots=[authority.der])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_SECONDS", 0.5)
        error = refusal(direct, kms.record)
    assert error.code == "kms.unreachable"
    assert "TimeoutError" in str(error)


def test_a_host_that_hands_out_nothing(authority: Authority, kms: Kms, host: Callable[..., Upstream]) -> None:
    assert refusal(DirectKms(host(9, tunnel=False), roots=[authority.der]), kms.record).code == "kms.tunnel"


def test_nobody_at_the_tunnels_end(authority: Authority, kms: Kms, host: Callable[..., Upstream]) -> None:
    assert refusal(DirectKms(host(9), roots=[authority.der]), kms.record).code == "kms.unreachable"


@pytest.mark.parametrize("name", ["session_token", "access_key_id", "secret_access_key"])
def test_a_host_cannot_put_lines_into_the_request(authority: Authority, kms: Kms, tmp_path: Path, name: str) -> None:
    values = {"access_key_id": "A" * 20, "secret_access_key": "s", "session_token": "t"}
    message = success(**values | {name: f"{values[name]}\r\nx-amz-target: TrentService.Encrypt"})
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/host")
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(len(message).to_bytes(4) + message)

        host = threading.Thread(target=serve)
        host.start()
        direct = DirectKms(Upstream(Address("unix", path=f"{tmp_path}/host")), roots=[authority.der])
        assert refusal(direct, kms.record).code == "hostlink.malformed"
        host.join()

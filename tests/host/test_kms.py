"""The host's KMS client: against the local KMS, and against servers that answer what KMS never would."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from ephemeralml.devcloud.kms import Credential, KmsServer
from ephemeralml.devcloud.kms.policy import default_policy
from ephemeralml.errors import ConfigurationError, KeyReleaseError
from ephemeralml.host.kms import KmsClient, KmsKeyProvider, KmsKeyRewrapper, ReleasedKey, key_region
from ephemeralml.host.kms_calls import KmsCalls
from ephemeralml.host.kms_keys import KmsKeys
from ephemeralml.package import KeyRecord
from ephemeralml.session.kms_errors import refused

HOST = Credential("AKIDHOST", "host-secret", "arn:aws:iam::000000000000:role/host")
REGION = "us-east-1"
KEY_ARN = f"arn:aws:kms:{REGION}:000000000000:key/12345678-1234-1234-1234-123456789abc"
OTHER_ARN = KEY_ARN.replace("abc", "abd")


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", HOST.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", HOST.secret_access_key)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def kms(tmp_path: Path) -> Iterator[KmsServer]:
    with KmsServer(store=tmp_path / "kms.sqlite", credentials=[HOST], roots=[]) as server:
        yield server


@pytest.fixture
def key_arn(kms: KmsServer) -> str:
    return KmsKeys(region=REGION, endpoint_url=kms.url).create(default_policy("000000000000"), description="model")


@pytest.fixture
def answering() -> Iterator[Callable[[bytes, int], str]]:
    """Starts a server that gives one fixed answer to everything; returns its address."""
    servers: list[tuple[HTTPServer, threading.Thread]] = []

    def start(body: bytes, status: int = 200) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def released(url: str, *, key_arn: str = KEY_ARN, wrapped: bytes = b"wrapped", document: bytes = b"doc") -> ReleasedKey:
    return KmsClient(region=REGION, endpoint_url=url).decrypt_for_recipient(
        key_arn=key_arn,
        wrapped_dek=wrapped,
        encryption_context={"package": "demo"},
        attestation_document=document,
    )


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(KeyReleaseError) as caught:
        call()
    assert str(caught.value)
    return caught.value.code


def answer(**changes: object) -> bytes:
    body = {"KeyId": KEY_ARN, "CiphertextForRecipient": base64.b64encode(b"sealed").decode(), **changes}
    return json.dumps({name: value for name, value in body.items() if value is not None}).encode()


def test_data_key_and_its_release(kms: KmsServer, key_arn: str) -> None:
    provider = KmsKeyProvider(key_arn, endpoint_url=kms.url)
    first, second = (provider.generate_data_key({"package": "demo"}) for _ in range(2))
    assert len(first.plaintext) == 32
    assert first.plaintext != second.plaintext
    assert (first.key_arn, first.provider) == (key_arn, "aws-kms")
    assert first.plaintext not in first.wrapped
    assert first.plaintext.hex() not in repr(first)
    assert repr(first.plaintext) not in repr(first)
    code = refusal(lambda: released(kms.url, key_arn=key_arn, wrapped=first.wrapped, document=b"not one"))
    assert code == "kms.validation"


def test_release(answering: Callable[..., str]) -> None:
    for plaintext in (None, ""):
        assert released(answering(answer(Plaintext=plaintext))) == ReleasedKey(KEY_ARN, b"sealed")


@pytest.mark.parametrize(
    "body",
    [
        answer(Plaintext=base64.b64encode(bytes(32)).decode()),
        answer(KeyId=OTHER_ARN),
        answer(KeyId=None),
        answer(KeyId=7),
        answer(CiphertextForRecipient=None),
        answer(CiphertextForRecipient=""),
        answer(CiphertextForRecipient="*"),
        answer(CiphertextForRecipient=[]),
        b"",
        b"{",
        b"[]",
        b"<html>",
        b"\xff\xfe",
        b"[" * 5000,
    ],
)
def test_refuses_answers_that_are_not_kms(answering: Callable[..., str], body: bytes) -> None:
    assert refusal(lambda: released(answering(body))) == "kms.answer"


@pytest.mark.parametrize("changes", [{"KeyId": OTHER_ARN}, {"Plaintext": "AAAA"}, {"CiphertextBlob": None}])
def test_refuses_wrong_data_keys(answering: Callable[..., str], changes: dict[str, Any]) -> None:
    good = {"Plaintext": base64.b64encode(bytes(32)).decode(), "CiphertextBlob": "AAAA"}
    url = answering(answer(**{**good, **changes}))
    assert refusal(lambda: KmsKeyProvider(KEY_ARN, endpoint_url=url).generate_data_key({})) == "kms.answer"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("AccessDeniedException", "kms.access_denied"),
        ("DisabledException", "kms.disabled"),
        ("IncorrectKeyException", "kms.ciphertext"),
        ("InvalidCiphertextException", "kms.ciphertext"),
        ("NotFoundException", "kms.not_found"),
        ("ValidationException", "kms.validation"),
        ("InvalidSignatureException", "kms.credentials"),
        ("SomethingNewException", "kms.refused"),
    ],
)
def test_refusals_of_kms(answering: Callable[..., str], kind: str, code: str) -> None:
    url = answering(json.dumps({"__type": kind, "message": "why"}).encode(), 400)
    assert refusal(lambda: released(url)) == code


def test_what_kms_says_commands_no_terminal_and_begins_no_line() -> None:
    evil = "AccessDeniedException\x1b[2J\nhost: ready"
    said = str(refused("Decrypt", evil, status=400, request=evil))
    assert said.isprintable()
    assert "ready" not in said


def test_refusals_of_the_local_kms(kms: KmsServer, key_arn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = KmsKeyProvider(KEY_ARN, endpoint_url=kms.url)
    assert refusal(lambda: provider.generate_data_key({})) == "kms.not_found"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    provider = KmsKeyProvider(key_arn, endpoint_url=kms.url)
    assert refusal(lambda: provider.generate_data_key({})) == "kms.credentials"


def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert refusal(lambda: released("http://127.0.0.1:9")) == "kms.credentials"


def test_nobody_listens() -> None:
    assert refusal(lambda: released("http://127.0.0.1:9")) == "kms.unreachable"


@pytest.mark.parametrize(
    "name",
    [
        "alias/model",
        "12345678-1234-1234-1234-123456789abc",
        KEY_ARN.replace("key/", "alias/"),
        KEY_ARN.replace(":kms:", ":iam:"),
        KEY_ARN + "\n",
        KEY_ARN.upper(),
        "",
    ],
)
def test_refuses_what_is_not_a_key_arn(name: str) -> None:
    assert refusal(lambda: released("http://127.0.0.1:9", key_arn=name)) == "kms.key_arn"
    assert refusal(lambda: KmsKeyProvider(name)) == "kms.key_arn"


def test_refuses_a_key_of_another_region() -> None:
    arn = KEY_ARN.replace(REGION, "eu-west-1")
    assert key_region(arn) == "eu-west-1"
    assert refusal(lambda: released("http://127.0.0.1:9", key_arn=arn)) == "kms.region"


def test_multi_region_keys_and_other_partitions() -> None:
    assert key_region(f"arn:aws-cn:kms:cn-north-1:000000000000:key/mrk-{'0' * 32}") == "cn-north-1"


@pytest.mark.parametrize(("region", "url"), [("no region", None), (REGION, "not a url")])
def test_a_client_that_cannot_work(region: str, url: str | None) -> None:
    with pytest.raises(ConfigurationError) as caught:
        KmsClient(region=region, endpoint_url=url)
    assert caught.value.code == "kms.client"


# Moving a data key to another KMS key.


def record(*, key_arn: str = KEY_ARN, wrapped: bytes = b"wrapped") -> KeyRecord:
    return KeyRecord(provider="aws-kms", key_arn=key_arn, encryption_context={"package": "demo"}, wrapped_dek=wrapped)


def test_a_data_key_moves_to_another_key(kms: KmsServer, key_arn: str) -> None:
    client = KmsCalls(region=REGION, endpoint_url=kms.url)
    other: str = client.call("create_key")["KeyMetadata"]["Arn"]
    made = KmsKeyProvider(key_arn, endpoint_url=kms.url).generate_data_key({"package": "demo"})
    old = record(key_arn=key_arn, wrapped=made.wrapped)
    new = KmsKeyRewrapper(other, endpoint_url=kms.url).rewrap(old)
    assert (new.key_arn, new.encryption_context) == (other, old.encryption_context)
    for one in (old, new):
        opened = client.call(
            "decrypt", CiphertextBlob=one.wrapped_dek, EncryptionContext=dict(one.encryption_context), KeyId=one.key_arn
        )
        assert opened["Plaintext"] == made.plaintext


def test_a_move_that_kms_refuses(kms: KmsServer, key_arn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = KmsKeyProvider(key_arn, endpoint_url=kms.url).generate_data_key({"package": "other"})
    mover = KmsKeyRewrapper(key_arn, endpoint_url=kms.url)
    assert refusal(lambda: mover.rewrap(record(key_arn=key_arn, wrapped=made.wrapped))) == "kms.ciphertext"
    assert refusal(lambda: mover.rewrap(record(wrapped=made.wrapped))) == "kms.not_found"
    absent = KmsKeyRewrapper(OTHER_ARN, endpoint_url=kms.url)
    assert refusal(lambda: absent.rewrap(record(key_arn=key_arn, wrapped=made.wrapped))) == "kms.not_found"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    mover = KmsKeyRewrapper(key_arn, endpoint_url=kms.url)
    assert refusal(lambda: mover.rewrap(record(key_arn=key_arn))) == "kms.credentials"


def moved(**changes: object) -> bytes:
    blob = base64.b64encode(b"moved").decode()
    return answer(CiphertextForRecipient=None, **{"CiphertextBlob": blob, "SourceKeyId": OTHER_ARN, **changes})


def test_an_answer_about_other_keys_is_refused(answering: Callable[..., str]) -> None:
    def move(body: bytes) -> KeyRecord:
        return KmsKeyRewrapper(KEY_ARN, endpoint_url=answering(body)).rewrap(record(key_arn=OTHER_ARN))

    assert move(moved()).wrapped_dek == b"moved"
    for changes in (
        {"SourceKeyId": KEY_ARN},
        {"SourceKeyId": None},
        {"KeyId": OTHER_ARN},
        {"KeyId": None},
        {"CiphertextBlob": None},
        {"CiphertextBlob": ""},
    ):
        assert refusal(lambda changes=changes: move(moved(**changes))) == "kms.answer"  # type: ignore[misc]


def test_keys_of_two_regions_are_not_tried() -> None:
    mover = KmsKeyRewrapper(KEY_ARN.replace(REGION, "eu-west-1"), endpoint_url="http://127.0.0.1:9")
    assert refusal(lambda: mover.rewrap(record())) == "kms.region"
    client = KmsClient(region=REGION, endpoint_url="http://127.0.0.1:9")
    for arns in ((KEY_ARN, KEY_ARN.replace(REGION, "eu-west-1")), (KEY_ARN.replace(REGION, "eu-west-1"), KEY_ARN)):
        code = refusal(
            lambda arns=arns: client.re_encrypt(  # type: ignore[misc]
                wrapped_dek=b"w", encryption_context={}, from_arn=arns[0], to_arn=arns[1]
            )
        )
        assert code == "kms.region"
    assert refusal(lambda: KmsKeyRewrapper("alias/model")) == "kms.key_arn"

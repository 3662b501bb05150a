"""KMS as it is on the wire: answers and errors in AWS's form, what is retried and what is not, whose credentials."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from botocore.stub import Stubber

from ephemeralml.errors import KeyReleaseError
from ephemeralml.host.kms import KmsClient, ReleasedKey
from ephemeralml.host.kms_keys import Grant, KmsKeys

REGION = "us-east-1"
KEY_ARN = f"arn:aws:kms:{REGION}:111122223333:key/12345678-1234-1234-1234-123456789abc"
REQUEST_ID = "deeb35e5-4ecb-4bf1-9af5-84a54ff0af0e"


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


class Asked(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def operation(self) -> str:
        return self.headers.get("x-amz-target", "").removeprefix("TrentService.")


class Server:
    """Gives its answers in turn, the last one for ever, and keeps what was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.by_path: dict[str, Answer] = {}
        self.asked: list[Asked] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.asked.append(Asked(self.command, self.path, headers, body))
                answer = outer.by_path.get(self.path)
                if answer is None:
                    answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                self.send_response(answer.status)
                given = {"x-amzn-RequestId": REQUEST_ID, "Content-Type": "application/x-amz-json-1.1", **answer.headers}
                for name, value in {**given, "Content-Length": str(len(answer.body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)

            def do_POST(self) -> None:
                self._any()

            def do_GET(self) -> None:
                self._any()

            def do_PUT(self) -> None:
                self._any()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def operations(self) -> list[str]:
        return [asked.operation for asked in self.asked]


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    running.asked.clear()
    return running


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What botocore would have slept between attempts."""
    slept: list[float] = []
    monkeypatch.setattr("botocore.endpoint.time.sleep", slept.append)
    return slept


@pytest.fixture
def fresh() -> None:
    """Clients that have failed at nothing: botocore retries on a budget, which failures use up."""
    client.cache_clear()
    keys.cache_clear()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS", "AWS_MAX_ATTEMPTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDHOST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "host-secret")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def ok(**members: object) -> Answer:
    return Answer(200, json.dumps(members).encode())


def error(kind: str, *, status: int = 400, message: str = "why") -> Answer:
    return Answer(status, json.dumps({"__type": kind, "message": message}).encode())


def text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


RELEASED = ok(KeyId=KEY_ARN, EncryptionAlgorithm="SYMMETRIC_DEFAULT", CiphertextForRecipient=text(b"sealed"))
DATA_KEY = ok(KeyId=KEY_ARN, CiphertextBlob=text(b"wrapped"), Plaintext=text(bytes(32)))
CREATED = ok(
    KeyMetadata={"AWSAccountId": "111122223333", "KeyId": KEY_ARN[-36:], "Arn": KEY_ARN, "KeyState": "Enabled"}
)
POLICY = ok(Policy='{"Version":"2012-10-17"}', PolicyName="default")
GRANTS = ok(
    Grants=[{"GrantId": "g1", "GranteePrincipal": "arn:aws:iam::111122223333:role/a", "Operations": ["Decrypt"]}],
    Truncated=False,
)


@cache
def client(url: str) -> KmsClient:
    return KmsClient(region=REGION, endpoint_url=url)


@cache
def keys(url: str) -> KmsKeys:
    return KmsKeys(region=REGION, endpoint_url=url)


def decrypt(url: str) -> ReleasedKey:
    return client(url).decrypt_for_recipient(
        key_arn=KEY_ARN, wrapped_dek=b"wrapped", encryption_context={"a": "b"}, attestation_document=b"doc"
    )


def generate(url: str) -> bytes:
    return client(url).generate_data_key(key_arn=KEY_ARN, encryption_context={}).wrapped


CALLS: dict[str, tuple[Callable[[str], object], Answer, object]] = {
    "Decrypt": (decrypt, RELEASED, ReleasedKey(KEY_ARN, b"sealed")),
    "GenerateDataKey": (generate, DATA_KEY, b"wrapped"),
    "CreateKey": (lambda url: keys(url).create("{}", description="model"), CREATED, KEY_ARN),
    "GetKeyPolicy": (lambda url: keys(url).policy(KEY_ARN), POLICY, '{"Version":"2012-10-17"}'),
    "DescribeKey": (lambda url: keys(url).describe(KEY_ARN)["KeyState"], CREATED, "Enabled"),
    "ListGrants": (
        lambda url: keys(url).grants(KEY_ARN),
        GRANTS,
        [Grant("g1", "arn:aws:iam::111122223333:role/a", ("Decrypt",))],
    ),
}
every_call = pytest.mark.parametrize("operation", CALLS)


def refusal(call: Callable[[], object]) -> KeyReleaseError:
    with pytest.raises(KeyReleaseError) as caught:
        call()
    return caught.value


@every_call
def test_success(server: Server, operation: str) -> None:
    call, answer, result = CALLS[operation]
    server.answers = [answer]
    assert call(server.url) == result
    assert server.operations == [operation]


def test_what_is_asked_of_decrypt(server: Server) -> None:
    server.answers = [RELEASED]
    decrypt(server.url)
    (asked,) = server.asked
    assert json.loads(asked.body) == {
        "KeyId": KEY_ARN,
        "CiphertextBlob": text(b"wrapped"),
        "EncryptionContext": {"a": "b"},
        "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        "Recipient": {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": text(b"doc")},
    }


THROTTLED = {
    "ThrottlingException": error(
        "ThrottlingException", message="You have exceeded the rate at which you may call KMS."
    ),
    "with a namespace": error("com.amazonaws.kms#ThrottlingException"),
    "429 with nothing": Answer(429, b""),
    "503": error("ThrottlingException", status=503),
}
TROUBLE = {
    "KMSInternalException": error("KMSInternalException", status=500),
    "DependencyTimeoutException": error("DependencyTimeoutException", status=503),
    "KeyUnavailableException": error("KeyUnavailableException", status=500),
    "500 with nothing": Answer(500, b""),
    "502 of a proxy": Answer(502, b"<html>Bad Gateway</html>", {"Content-Type": "text/html"}),
    "503 with nothing": Answer(503, b""),
}


@every_call
@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        *(pytest.param(answer, "kms.throttled", id=name) for name, answer in THROTTLED.items()),
        *(pytest.param(answer, "kms.unavailable", id=name) for name, answer in TROUBLE.items()),
    ],
)
@pytest.mark.usefixtures("fresh")
def test_throttling_and_trouble_are_asked_again_twice(
    server: Server, waits: list[float], operation: str, trouble: Answer, code: str
) -> None:
    call, answer, result = CALLS[operation]
    server.answers = [trouble, trouble, answer]
    assert call(server.url) == result
    assert server.operations == [operation] * 3
    server.asked.clear()
    server.answers = [trouble]
    assert refusal(lambda: call(server.url)).code == code
    assert server.operations == [operation] * 3
    assert len(waits) == 4


@pytest.mark.usefixtures("fresh")
def test_the_wait_is_jittered_and_grows(server: Server, waits: list[float]) -> None:
    server.answers = [THROTTLED["ThrottlingException"]]
    for _ in range(10):
        refusal(lambda: decrypt(server.url))
    first, second = waits[::2], waits[1::2]
    assert len(set(waits)) == 20
    assert max(first) <= 1
    assert max(second) <= 2


REFUSALS = {
    "AccessDeniedException": "kms.access_denied",
    "DisabledException": "kms.disabled",
    "KMSInvalidStateException": "kms.disabled",
    "InvalidCiphertextException": "kms.ciphertext",
    "IncorrectKeyException": "kms.ciphertext",
    "NotFoundException": "kms.not_found",
    "InvalidArnException": "kms.not_found",
    "ValidationException": "kms.validation",
    "MalformedPolicyDocumentException": "kms.policy",
    "ExpiredTokenException": "kms.credentials",
    "UnrecognizedClientException": "kms.credentials",
    "InvalidSignatureException": "kms.credentials",
    "MissingAuthenticationTokenException": "kms.credentials",
    "InvalidClientTokenId": "kms.credentials",
    "InvalidKeyUsageException": "kms.refused",
    "DryRunOperationException": "kms.refused",
    "UnsupportedOperationException": "kms.refused",
}
FORMS = ["{0}", "com.amazonaws.kms#{0}", "{0}:http://internal.amazon.com/coral/com.amazonaws.kms/"]


@every_call
@pytest.mark.parametrize("kind", REFUSALS)
def test_refusals_are_final(server: Server, waits: list[float], operation: str, kind: str) -> None:
    call, _, _ = CALLS[operation]
    for form in FORMS:
        server.asked.clear()
        server.answers = [error(form.format(kind))]
        refused = refusal(lambda: call(server.url))
        assert refused.code == REFUSALS[kind]
        assert f"({kind}, request {REQUEST_ID})" in str(refused)
        assert "why" not in str(refused)
        # A denied release looks at the key policy, once.
        aside = ["GetKeyPolicy"] if operation == "Decrypt" and kind == "AccessDeniedException" else []
        assert (server.operations, waits) == ([operation, *aside], [])


@every_call
def test_a_denial_speaks_of_what_was_denied(server: Server, operation: str) -> None:
    call, _, _ = CALLS[operation]
    server.answers = [error("AccessDeniedException")]
    said = str(refusal(lambda: call(server.url)))
    # Only an enclave has measurements.
    assert ("measurement" in said) == (operation == "Decrypt")
    assert (f"may not {operation}" in said) == (operation != "Decrypt")


@pytest.mark.usefixtures("fresh")
def test_retries_end_where_everything_fails(server: Server, waits: list[float]) -> None:
    server.answers = [TROUBLE["500 with nothing"]]
    for _ in range(40):
        refusal(lambda: decrypt(server.url))
    server.asked.clear()
    refusal(lambda: decrypt(server.url))
    assert len(server.asked) == 1


@pytest.mark.usefixtures("fresh")
def test_a_quota_is_asked_again_and_named(server: Server, waits: list[float]) -> None:
    server.answers = [error("LimitExceededException")]
    assert refusal(lambda: keys(server.url).create("{}", description="x")).code == "kms.limit"
    assert len(waits) == 2


@pytest.mark.usefixtures("fresh")
def test_credentials_that_expire_meanwhile(server: Server, waits: list[float]) -> None:
    server.answers = [THROTTLED["ThrottlingException"], error("ExpiredTokenException")]
    assert refusal(lambda: decrypt(server.url)).code == "kms.credentials"
    assert server.operations == ["Decrypt", "Decrypt"]


@pytest.mark.parametrize("body", [b"{}", b'{"KeyMetadata": 7}', b"[]", b"{", b"<html>", b""])
@pytest.mark.parametrize("operation", ["CreateKey", "GetKeyPolicy", "DescribeKey"])
def test_answers_that_are_not_kms(server: Server, operation: str, body: bytes) -> None:
    call, _, _ = CALLS[operation]
    server.answers = [Answer(200, body)]
    assert refusal(lambda: call(server.url)).code == "kms.answer"


def test_grants_come_in_pages(server: Server) -> None:
    grant = {"GrantId": "g", "GranteePrincipal": "p", "Operations": []}
    server.answers = [
        ok(Grants=[grant] * 100, Truncated=True, NextMarker="next"),
        ok(Grants=[grant], Truncated=False),
    ]
    assert len(keys(server.url).grants(KEY_ARN)) == 101
    assert [json.loads(asked.body).get("Marker") for asked in server.asked] == [None, "next"]


def test_grants_without_end_are_refused(server: Server) -> None:
    server.answers = [ok(Grants=[], Truncated=True, NextMarker="again")]
    assert refusal(lambda: keys(server.url).grants(KEY_ARN)).code == "kms.grants"
    assert len(server.asked) == 20


def test_a_key_that_is_shared_has_a_second_policy(server: Server) -> None:
    server.answers = [POLICY]
    assert keys(server.url).shared_policy(KEY_ARN)
    assert json.loads(server.asked[0].body) == {"KeyId": KEY_ARN, "PolicyName": "AWS_RAM"}
    server.answers = [error("NotFoundException", message="No such policy exists")]
    assert keys(server.url).shared_policy(KEY_ARN) is None
    server.answers = [error("AccessDeniedException")]
    assert refusal(lambda: keys(server.url).shared_policy(KEY_ARN)).code == "kms.access_denied"


@pytest.mark.usefixtures("fresh")
def test_the_instance_role_signs(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # IMDSv2, as an EC2 instance with a role has it.
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    expires = (datetime.now(UTC) + timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ")
    of_role = {
        "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ASIAROLE", "SecretAccessKey": "role-secret",
        "Token": "role-session", "Expiration": expires,
    }  # fmt: skip
    with Server() as metadata:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
        credentials = "/latest/meta-data/iam/security-credentials/"
        metadata.by_path = {
            "/latest/api/token": Answer(200, b"imds-token"),
            credentials: Answer(200, b"enclave-host"),
            f"{credentials}enclave-host": ok(**of_role),
        }
        metadata.answers = [Answer(404, b"")]
        server.answers = [RELEASED]
        assert decrypt(server.url).ciphertext_for_recipient == b"sealed"
    client.cache_clear()
    (asked,) = server.asked
    assert asked.headers["x-amz-security-token"] == "role-session"
    assert "Credential=ASIAROLE/" in asked.headers["authorization"]


def test_stubber_knows_the_same_shapes() -> None:
    """botocore's own model of KMS accepts what these tests send and receive; its Stubber checks both."""
    kms = KmsClient(region=REGION)
    with Stubber(kms._kms._patient) as stubber:
        request = {
            "KeyId": KEY_ARN,
            "CiphertextBlob": b"wrapped",
            "EncryptionContext": {"a": "b"},
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "Recipient": {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": b"doc"},
        }
        stubber.add_response("decrypt", {"KeyId": KEY_ARN, "CiphertextForRecipient": b"sealed"}, request)
        stubber.add_client_error("decrypt", "KeyUnavailableException", http_status_code=500)
        stubber.add_response("generate_data_key", {"KeyId": KEY_ARN, "CiphertextBlob": b"w", "Plaintext": bytes(32)})
        release = {
            "key_arn": KEY_ARN,
            "wrapped_dek": b"wrapped",
            "encryption_context": {"a": "b"},
            "attestation_document": b"doc",
        }
        assert kms.decrypt_for_recipient(**release) == ReleasedKey(KEY_ARN, b"sealed")  # type: ignore[arg-type]
        # The Stubber stands before the retry handler: it is for shapes, not for attempts.
        assert refusal(lambda: kms.decrypt_for_recipient(**release)).code == "kms.unavailable"  # type: ignore[arg-type]
        assert kms.generate_data_key(key_arn=KEY_ARN, encryption_context={}).wrapped == b"w"
        stubber.assert_no_pending_responses()

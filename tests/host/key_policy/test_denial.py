"""A denied release says what differs: the broker against the local KMS under printed policies."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.attestation import Measurements
from ephemeralml.codec import cbor
from ephemeralml.devcloud.kms import Credential, KmsServer
from ephemeralml.devcloud.nsm import SoftwareNsm
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.errors import KeyReleaseError
from ephemeralml.host import kms_calls
from ephemeralml.host.key_policy import key_policy, likely_cause
from ephemeralml.host.kms import KmsClient, KmsKeyProvider
from ephemeralml.host.kms_keys import KmsKeys

IAM = "arn:aws:iam::000000000000:"
OWNER = Credential("AKIDOWNER", "owner-secret", f"{IAM}user/owner")
HOST = Credential("AKIDHOST", "host-secret", f"{IAM}role/host")
STRANGER = Credential("AKIDSTRANGER", "stranger-secret", f"{IAM}role/stranger")
REGION = "us-east-1"
# What the enclave keeps of its host's word.
LONGEST = 400

Pcrs = dict[int, bytes]


def pcrs(first: int) -> Pcrs:
    return {index: bytes([first + index]) * 48 for index in range(3)}


ONE, TWO, OTHER = pcrs(0x10), pcrs(0x20), pcrs(0x70)


def release(of: Pcrs) -> Measurements:
    return Measurements(pcr0=of[0], pcr1=of[1], pcr2=of[2])


ROOT = DevelopmentRoot.create()
_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
_PUBLIC = _KEY.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def document(of: Mapping[int, bytes]) -> bytes:
    fields = {"user_data": None, "nonce": None, "public_key": _PUBLIC}
    answer: Any = cbor.decode_foreign(SoftwareNsm(ROOT, of).handle(cbor.encode({"Attestation": fields})))
    raw: bytes = answer["Attestation"]["document"]
    return raw


@pytest.fixture(scope="module")
def kms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KmsServer]:
    store = tmp_path_factory.mktemp("kms") / "kms.sqlite"
    with KmsServer(store=store, credentials=[OWNER, HOST, STRANGER], roots=[ROOT.der]) as server:
        yield server


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Credential], None]:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))

    def as_(credential: Credential) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", credential.access_key_id)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", credential.secret_access_key)

    return as_


Denied = Callable[..., str]


@pytest.fixture
def denied(kms: KmsServer, become: Callable[[Credential], None]) -> Denied:
    """The message for an enclave with `of`, under a policy for `releases`; `change` edits the policy's statements."""

    def call(
        of: Mapping[int, bytes],
        *,
        releases: tuple[Pcrs, ...] = (ONE,),
        context: str = "demo",
        caller: Credential = HOST,
        change: Callable[[list[dict[str, Any]]], None] = lambda _: None,
    ) -> str:
        text = key_policy(
            measurements=[release(item) for item in releases],
            roles=[HOST.principal_arn],
            admin=OWNER.principal_arn,
            owner=OWNER.principal_arn,
            encryption_context={"package": "demo"},
        )
        policy = json.loads(text)
        change(policy["Statement"])
        become(OWNER)
        arn = KmsKeys(region=REGION, endpoint_url=kms.url).create(json.dumps(policy), description="model")
        data_key = KmsKeyProvider(arn, endpoint_url=kms.url).generate_data_key({"package": "demo"})
        become(caller)
        with pytest.raises(KeyReleaseError) as caught:
            KmsClient(region=REGION, endpoint_url=kms.url).decrypt_for_recipient(
                key_arn=arn,
                wrapped_dek=data_key.wrapped,
                encryption_context={"package": context},
                attestation_document=document(of),
            )
        assert caught.value.code == "kms.access_denied"
        message = str(caught.value)
        assert len(message) <= LONGEST
        return message

    return call


def test_another_image(denied: Denied) -> None:
    message = denied(OTHER)
    assert "PCR0 does not match the key policy" in message
    assert f"policy has {'10' * 48}, enclave has {'70' * 48}" in message


def test_another_image_than_any_of_several_releases(denied: Denied) -> None:
    message = denied(OTHER, releases=tuple(pcrs(0x10 * index) for index in range(1, 7)))
    listed = " or ".join(f"{index}0{index}0{index}0{index}0{index}0{index}0{index}0{index}0…" for index in range(1, 5))
    assert f"policy has {listed} (2 more), enclave has {'70' * 48}" in message


def test_the_right_image_with_another_register(denied: Denied) -> None:
    message = denied({**TWO, 2: OTHER[2]}, releases=(ONE, TWO))
    assert f"PCR2 does not match the key policy: policy has {'22' * 48}, enclave has {'72' * 48}" in message
    message = denied({**ONE, 1: TWO[1], 2: TWO[2]}, releases=(ONE, TWO))
    assert "PCR1 does not match" in message


def test_debug_mode(denied: Denied) -> None:
    assert "debug mode" in denied(dict.fromkeys(range(3), bytes(48)))


def test_the_right_enclave_with_another_context_or_role(denied: Denied) -> None:
    assert "encryption context" in denied(ONE, context="other")


def test_a_role_that_may_not_read_the_policy(denied: Denied) -> None:
    message = denied(OTHER, caller=STRANGER)
    assert "cannot read the key policy" in message
    assert "70" * 48 in message


def test_a_policy_that_releases_to_nobody(denied: Denied) -> None:
    def drop(statements: list[dict[str, Any]]) -> None:
        statements[:] = [item for item in statements if not item["Sid"].startswith("Release")]

    message = denied(ONE, change=drop)
    assert "no measured enclave at all" in message
    assert "10" * 48 in message


@pytest.fixture
def silent() -> Iterator[str]:
    """A KMS that denies Decrypt and never answers GetKeyPolicy."""
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["X-Amz-Target"].endswith("GetKeyPolicy"):
                stop.wait()
                return
            body = b'{"__type":"AccessDeniedException","Message":"no"}'
            self.send_response(400)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    stop.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_policy_that_does_not_come_is_not_waited_for(
    silent: str, become: Callable[[Credential], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    brief: Any = kms_calls._BRIEF
    assert (brief.connect_timeout, brief.read_timeout, brief.retries["total_max_attempts"]) == (1, 2, 1)
    monkeypatch.setattr(kms_calls, "_BRIEF", brief.merge(Config(read_timeout=0.1)))
    become(HOST)
    with pytest.raises(KeyReleaseError) as caught:
        KmsClient(region=REGION, endpoint_url=silent).decrypt_for_recipient(
            key_arn=f"arn:aws:kms:{REGION}:000000000000:key/12345678-1234-1234-1234-123456789abc",
            wrapped_dek=b"x",
            encryption_context={},
            attestation_document=document(ONE),
        )
    assert caught.value.code == "kms.access_denied"
    assert "10" * 48 in str(caught.value)


def test_what_is_no_document_explains_nothing() -> None:
    assert likely_cause(b"no document", "{}") is None


def test_a_policy_commands_no_terminal_and_begins_no_line() -> None:
    evil = "\x1b[2J\nhost: ready\u202e"
    registers = {"kms:RecipientAttestation:ImageSha384": [evil, evil + "x"], "kms:RecipientAttestation:PCR1": evil}
    for few in (registers, dict.fromkeys(registers, evil)):
        statement = {
            "Effect": "Allow",
            "Principal": "*",
            "Action": "kms:Decrypt",
            "Resource": "*",
            "Condition": {"StringEquals": few},
        }
        cause = likely_cause(document(ONE), json.dumps({"Statement": [statement]}))
        assert cause is not None
        assert "policy has ?[2j?host: ready" in cause
        assert cause.isprintable()


ENCLAVE = document(ONE)
VALUE = st.sampled_from(["10" * 48, "70" * 48, "*", "", "x" * 400])


@given(
    st.text(max_size=40)
    | st.lists(
        st.builds(
            lambda action, condition: {"Effect": "Allow", "Principal": "*", "Action": action, "Condition": condition},
            st.sampled_from(["kms:*", "kms:Decrypt", "kms:Encrypt"]),
            st.dictionaries(
                st.sampled_from(["StringEquals", "StringLike"]),
                st.dictionaries(
                    st.integers(0, 33).map("kms:RecipientAttestation:PCR{}".format),
                    st.lists(VALUE, min_size=1, max_size=6),
                    min_size=1,
                ),
            ),
        ),
        min_size=1,
        max_size=3,
    ).map(lambda items: json.dumps({"Statement": items}))
)
def test_any_policy_gives_a_sentence_that_fits(policy: str) -> None:
    cause = likely_cause(ENCLAVE, policy)
    assert cause is not None
    assert len(f"KMS denies: {cause}") <= LONGEST

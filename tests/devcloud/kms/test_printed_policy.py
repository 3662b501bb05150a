"""What `ephemeralml kms policy` prints, in a running KMS: the right enclave gets the key, every wrong one does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric import rsa
from typer.testing import CliRunner

from ephemeralml.attestation import Measurements
from ephemeralml.cli.kms import app
from ephemeralml.devcloud.kms import Credential, KmsServer
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.enclave.key_release import open_envelope
from ephemeralml.host.key_policy import Finding, check_key, check_policy
from ephemeralml.host.kms_keys import KmsKeys

Attest = Callable[..., bytes]
Pcrs = dict[int, bytes]

_ACCOUNT = "000000000000"
_IAM = f"arn:aws:iam::{_ACCOUNT}:"
ADMIN = Credential("AKIDADMIN", "admin-secret", f"{_IAM}role/admin")
OWNER = Credential("AKIDOWNER", "owner-secret", f"{_IAM}user/owner")
HOST = Credential("AKIDHOST", "host-secret", f"{_IAM}role/host")
OTHER_ROLE = Credential("AKIDOTHERROLE", "other-secret", f"{_IAM}role/other")
STRANGER = Credential("AKIDSTRANGER", "stranger-secret", "arn:aws:iam::999999999999:user/stranger")

CONTEXT = {"ephemeralml:package": "aa", "ephemeralml:model": "tiny"}
REGISTERS = (0, 1, 2, 8)


def release(first: int) -> Pcrs:
    return {index: bytes([first + index]) * 48 for index in REGISTERS}


ONE, TWO = release(0x10), release(0x20)
RELEASES = [Measurements(**{f"pcr{index}": value for index, value in pcrs.items()}) for pcrs in (ONE, TWO)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, root: DevelopmentRoot) -> Iterator[KmsServer]:
    store = tmp_path_factory.mktemp("kms") / "kms.sqlite"
    everybody = [ADMIN, OWNER, HOST, OTHER_ROLE, STRANGER]
    with KmsServer(store=store, credentials=everybody, roots=[root.der]) as running:
        yield running


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The command's standard output."""
    folder = tmp_path_factory.mktemp("measurements")
    arguments = ["policy", "--role", HOST.principal_arn, "--admin", ADMIN.principal_arn]
    arguments += ["--owner", OWNER.principal_arn, "--encryption-context", "ephemeralml:model=tiny"]
    for number, pcrs in enumerate((ONE, TWO)):
        path = Path(folder / f"{number}.json")
        path.write_text(json.dumps({f"PCR{index}": value.hex() for index, value in pcrs.items()}))
        arguments += ["--measurements", str(path)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


@dataclass(frozen=True)
class Ask:
    """A Decrypt, right in everything but what is changed."""

    pcrs: Pcrs = field(default_factory=lambda: ONE)
    caller: Credential = HOST
    attested: bool = True
    forged_root: bool = False
    context: dict[str, str] = field(default_factory=lambda: CONTEXT)
    other_keys_ciphertext: bool = False


class Kms:
    """A key under `policy`, and a ciphertext the owner made with it."""

    def __init__(self, connect: Callable[..., Any], attest: Attest, policy: str) -> None:
        self._connect, self._attest = connect, attest
        self.arn = self._create(policy)
        self.dek, self._sealed = self._data_key(self.arn)

    def _create(self, policy: str) -> str:
        arn: str = self._connect(ADMIN).create_key(Policy=policy)["KeyMetadata"]["Arn"]
        return arn

    def _data_key(self, arn: str) -> tuple[bytes, bytes]:
        made = self._connect(OWNER).generate_data_key(KeyId=arn, KeySpec="AES_256", EncryptionContext=CONTEXT)
        return made["Plaintext"], made["CiphertextBlob"]

    def put(self, policy: dict[str, Any]) -> None:
        self._connect(ADMIN).put_key_policy(
            KeyId=self.arn, Policy=json.dumps(policy), BypassPolicyLockoutSafetyCheck=True
        )

    def checked(self, keys: KmsKeys) -> list[Finding]:
        """What the check of the live key finds."""
        return check_key(keys, self.arn, measurements=RELEASES, roles=[HOST.principal_arn])

    def released(self, ask: Ask, key: rsa.RSAPrivateKey) -> bytes:
        """The DEK, as whoever asks gets it. Raises `ClientError`."""
        sealed = self._sealed
        if ask.other_keys_ciphertext:
            policy = self._connect(ADMIN).get_key_policy(KeyId=self.arn)["Policy"]
            _, sealed = self._data_key(self._create(policy))
        document = self._attest(ask.pcrs, issuer=DevelopmentRoot.create() if ask.forged_root else None)
        recipient = {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": document}
        answer = self._connect(ask.caller).decrypt(
            KeyId=self.arn,
            CiphertextBlob=sealed,
            EncryptionContext=ask.context,
            **({"Recipient": recipient} if ask.attested else {}),
        )
        plaintext: bytes = open_envelope(answer["CiphertextForRecipient"], key) if ask.attested else answer["Plaintext"]
        return plaintext


@pytest.fixture
def kms(connect: Callable[..., Any], attest: Attest, printed: str) -> Kms:
    return Kms(connect, attest, printed)


@pytest.fixture
def keys(server: KmsServer, monkeypatch: pytest.MonkeyPatch) -> KmsKeys:
    """The admin's view of the keys."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ADMIN.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ADMIN.secret_access_key)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return KmsKeys(region=server.region, endpoint_url=server.url)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ClientError) as caught:
        call()
    code: str = caught.value.response["Error"]["Code"]
    return code


@pytest.mark.parametrize("pcrs", [ONE, TWO])
def test_the_right_enclave_gets_the_key(kms: Kms, enclave_key: rsa.RSAPrivateKey, pcrs: Pcrs) -> None:
    assert kms.released(Ask(pcrs=pcrs), enclave_key) == kms.dek


WRONG = {
    "wrong PCR0": Ask(pcrs={**ONE, 0: bytes([0x77]) * 48}),
    "wrong PCR1": Ask(pcrs={**ONE, 1: bytes([0x77]) * 48}),
    "wrong PCR2": Ask(pcrs={**ONE, 2: bytes([0x77]) * 48}),
    "wrong PCR8": Ask(pcrs={**ONE, 8: bytes([0x77]) * 48}),
    "sets of two releases mixed": Ask(pcrs={**ONE, 2: TWO[2]}),
    "debug mode, all zero": Ask(pcrs={index: bytes(48) for index in REGISTERS}),
    "no attestation at all": Ask(attested=False),
    "other principal of another account": Ask(caller=STRANGER),
    "other role of the same account": Ask(caller=OTHER_ROLE),
    "the owner": Ask(caller=OWNER),
    "the admin": Ask(caller=ADMIN),
    "the admin without attestation": Ask(caller=ADMIN, attested=False),
    "encryption context of another model": Ask(context={**CONTEXT, "ephemeralml:model": "other"}),
    "no encryption context": Ask(context={}),
}
WRONG_OTHERWISE = {
    "encryption context of another package": (
        Ask(context={**CONTEXT, "ephemeralml:package": "bb"}),
        "InvalidCiphertextException",
    ),
    "replay of another key's ciphertext": (Ask(other_keys_ciphertext=True), "IncorrectKeyException"),
    "document under another root": (Ask(forged_root=True), "ValidationException"),
}


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        *(pytest.param(ask, "AccessDeniedException", id=name) for name, ask in WRONG.items()),
        *(pytest.param(ask, code, id=name) for name, (ask, code) in WRONG_OTHERWISE.items()),
    ],
)
def test_a_wrong_one_does_not(kms: Kms, enclave_key: rsa.RSAPrivateKey, ask: Ask, code: str) -> None:
    assert refusal(lambda: kms.released(ask, enclave_key)) == code


def test_only_the_admin_may_change_the_policy(kms: Kms, connect: Callable[..., Any], printed: str) -> None:
    for credential in (HOST, OWNER, OTHER_ROLE, STRANGER):
        put = partial(connect(credential).put_key_policy, KeyId=kms.arn, Policy=printed)
        assert refusal(put) == "AccessDeniedException"
    connect(ADMIN).put_key_policy(KeyId=kms.arn, Policy=printed)
    assert connect(HOST).get_key_policy(KeyId=kms.arn)["Policy"] == printed


def test_the_owner_cannot_make_the_key_whose_policy_would_lock_it_out(
    connect: Callable[..., Any], printed: str
) -> None:
    assert refusal(lambda: connect(OWNER).create_key(Policy=printed)) == "MalformedPolicyDocumentException"


def test_data_keys_carry_the_encryption_context(kms: Kms, connect: Callable[..., Any]) -> None:
    make = connect(OWNER).generate_data_key
    assert make(KeyId=kms.arn, KeySpec="AES_256", EncryptionContext=CONTEXT)["Plaintext"]
    assert refusal(lambda: make(KeyId=kms.arn, KeySpec="AES_256")) == "AccessDeniedException"
    host = connect(HOST).generate_data_key
    assert refusal(lambda: host(KeyId=kms.arn, KeySpec="AES_256", EncryptionContext=CONTEXT)) == "AccessDeniedException"


class Hole(NamedTuple):
    """What somebody might make of the policy, the attack that goes through it, and what the check says."""

    change: Callable[[dict[str, Any]], object]
    attack: Ask
    codes: set[str]


_ATTESTATION = "kms:RecipientAttestation:"


def _without_deny(policy: dict[str, Any]) -> None:
    policy["Statement"] = [item for item in policy["Statement"] if item["Effect"] == "Allow"]


def _release_statement(policy: dict[str, Any]) -> dict[str, Any]:
    _without_deny(policy)
    policy["Statement"] = [item for item in policy["Statement"] if item["Sid"] != "Release2"]
    statement: dict[str, Any] = policy["Statement"][-1]
    assert statement["Sid"] == "Release1"
    return statement


def _condition(operator: str, **registers: object) -> Callable[[dict[str, Any]], None]:
    def change(policy: dict[str, Any]) -> None:
        _release_statement(policy)["Condition"] = {
            operator: {_ATTESTATION + name: value for name, value in registers.items()}
        }

    return change


def _conditions(condition: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    def change(policy: dict[str, Any]) -> None:
        _release_statement(policy)["Condition"] = condition

    return change


def _more(**statement: Any) -> Callable[[dict[str, Any]], None]:
    def change(policy: dict[str, Any]) -> None:
        _without_deny(policy)
        policy["Statement"].append({"Effect": "Allow", "Resource": "*", **statement})

    return change


def _hex(index: int, *releases: Pcrs) -> list[str]:
    return [pcrs[index].hex() for pcrs in releases]


ANY_IMAGE = {index: bytes([0x66]) * 48 for index in REGISTERS}
HOLES = {
    "statement for the account root": Hole(
        _more(Principal={"AWS": f"{_IAM}root"}, Action="kms:*"),
        Ask(caller=OTHER_ROLE, attested=False),
        {"anybody", "unattested", "grant", "replica", "reencrypt"},
    ),
    "statement for the account by its number": Hole(
        _more(Principal={"AWS": "000000000000"}, Action="kms:Decrypt"),
        Ask(caller=OTHER_ROLE, attested=False),
        {"anybody", "unattested"},
    ),
    "statement for everybody": Hole(
        _more(Principal="*", Action="kms:Decrypt"),
        Ask(caller=STRANGER, attested=False),
        {"anybody", "unattested"},
    ),
    "administrators with kms:*": Hole(
        _more(Principal={"AWS": ADMIN.principal_arn}, Action="kms:*"),
        Ask(caller=ADMIN, attested=False),
        {"unattested", "other_principal", "grant", "replica", "reencrypt"},
    ),
    "action with a wildcard": Hole(
        _more(Principal={"AWS": HOST.principal_arn}, Action="kms:De*"),
        Ask(attested=False),
        {"unattested", "govern"},
    ),
    "action of one wildcard character in other letters": Hole(
        _more(Principal={"AWS": HOST.principal_arn}, Action="KMS:DECRYP?"),
        Ask(attested=False),
        {"unattested"},
    ),
    "no condition": Hole(_conditions({}), Ask(attested=False), {"unattested"}),
    "encryption context alone": Hole(
        _conditions({"StringEquals": {"kms:EncryptionContext:ephemeralml:model": "tiny"}}),
        Ask(attested=False),
        {"unattested"},
    ),
    "IfExists": Hole(
        _condition("StringEqualsIgnoreCaseIfExists", ImageSha384=_hex(0, ONE)),
        Ask(attested=False),
        {"if_exists"},
    ),
    "a negated operator": Hole(
        _condition("StringNotEquals", ImageSha384=_hex(0, TWO)),
        Ask(attested=False),
        {"unattested"},
    ),
    "presence alone": Hole(_condition("Null", ImageSha384="false"), Ask(pcrs=ANY_IMAGE), {"unattested"}),
    "a pattern": Hole(_condition("StringLike", ImageSha384="*"), Ask(pcrs=ANY_IMAGE), {"wildcard"}),
    "a pattern of the right beginning": Hole(
        _condition("StringLike", ImageSha384=f"{ONE[0].hex()[:8]}*"),
        Ask(pcrs={**ANY_IMAGE, 0: ONE[0][:40] + bytes(8)}),
        {"wildcard"},
    ),
    "signer alone": Hole(
        _condition("StringEquals", PCR8=_hex(8, ONE)),
        Ask(pcrs={**ANY_IMAGE, 8: ONE[8]}),
        {"no_image"},
    ),
    "an image nobody measured": Hole(
        _condition("StringEquals", ImageSha384=_hex(0, ONE, ANY_IMAGE)),
        Ask(pcrs=ANY_IMAGE),
        {"unknown_release"},
    ),
    "two releases in one statement": Hole(
        _condition("StringEquals", **{f"PCR{index}": _hex(index, ONE, TWO) for index in REGISTERS}),
        Ask(pcrs={**ONE, 2: TWO[2]}),
        {"mixed_sets"},
    ),
    "image alone": Hole(
        _condition("StringEquals", ImageSha384=_hex(0, ONE)),
        Ask(pcrs={**ANY_IMAGE, 0: ONE[0]}),
        {"partial_set"},
    ),
    "another role with the right condition": Hole(
        lambda policy: _release_statement(policy).update(Principal={"AWS": OTHER_ROLE.principal_arn}),
        Ask(caller=OTHER_ROLE),
        {"other_principal"},
    ),
}


@pytest.mark.parametrize("hole", [pytest.param(hole, id=name) for name, hole in HOLES.items()])
def test_each_hole_lets_the_key_out_and_is_named(
    kms: Kms, enclave_key: rsa.RSAPrivateKey, printed: str, hole: Hole
) -> None:
    assert refusal(lambda: kms.released(hole.attack, enclave_key)) == "AccessDeniedException"
    policy = json.loads(printed)
    hole.change(policy)
    kms.put(policy)
    assert kms.released(hole.attack, enclave_key) == kms.dek
    found = check_policy(json.dumps(policy), measurements=RELEASES, account=_ACCOUNT, roles=[HOST.principal_arn])
    assert {item.code for item in found if item.hole} == hole.codes


def test_the_deny_holds_whatever_is_allowed_beside_it(kms: Kms, enclave_key: rsa.RSAPrivateKey, printed: str) -> None:
    policy = json.loads(printed)
    policy["Statement"].append({"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"})
    kms.put(policy)
    for ask in (Ask(caller=STRANGER, attested=False), Ask(pcrs=ANY_IMAGE), Ask(attested=False)):
        assert refusal(partial(kms.released, ask, enclave_key)) == "AccessDeniedException"
    assert kms.released(Ask(), enclave_key) == kms.dek


def test_a_grant_releases_without_attestation_until_the_deny_is_there(
    kms: Kms, connect: Callable[..., Any], enclave_key: rsa.RSAPrivateKey, printed: str, keys: KmsKeys
) -> None:
    attack = Ask(caller=OTHER_ROLE, attested=False)
    policy = json.loads(printed)
    _without_deny(policy)
    policy["Statement"][0]["Action"].append("kms:CreateGrant")
    kms.put(policy)
    assert refusal(lambda: kms.released(attack, enclave_key)) == "AccessDeniedException"
    made = connect(ADMIN).create_grant(
        KeyId=kms.arn, GranteePrincipal=OTHER_ROLE.principal_arn, Operations=["Decrypt", "DescribeKey"]
    )
    assert kms.released(attack, enclave_key) == kms.dek
    assert {item.code for item in kms.checked(keys) if item.hole} == {"grant", "grants"}

    kms.put(json.loads(printed))
    assert refusal(lambda: kms.released(attack, enclave_key)) == "AccessDeniedException"
    assert [(item.code, item.hole) for item in kms.checked(keys)] == [("governor", False), ("grants_denied", False)]
    connect(ADMIN).revoke_grant(KeyId=kms.arn, GrantId=made["GrantId"])
    assert [item.code for item in kms.checked(keys)] == ["governor"]


def test_the_printed_policy_has_no_hole(printed: str) -> None:
    found = check_policy(printed, measurements=RELEASES, account=_ACCOUNT, roles=[HOST.principal_arn])
    assert [(item.code, item.hole) for item in found] == [("governor", False)]

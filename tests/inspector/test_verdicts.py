"""The page against `ephemeralml verify`: the same verdict, code and steps, whatever is dropped on it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from browser import Inspector, Outcome, python_outcome
from bundles import MADE, World, seal
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from samples import PCRS, RECEIPT_KEY

from ephemeralml.attestation import AttestationDocument, KeyReleaseBinding, Measurements, Policy
from ephemeralml.attestation.chain import AWS_NITRO_ROOT_G1_SHA256
from ephemeralml.codec import cbor, cose
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.errors import AttestationError
from ephemeralml.inspector.page import SCRIPTS, assemble, read_source
from ephemeralml.receipts import Bundle, EnclaveMeasurements
from ephemeralml.receipts.bundle import MAX_BUNDLE_BYTES

Case = tuple[bytes, bytes | None]


def js(policy: Policy) -> bytes:
    return policy.to_json().encode()


def agreed(inspector: Inspector, cases: Mapping[str, Case]) -> dict[str, Outcome]:
    """What the page shows for each case, after comparing every word of it with Python's."""
    shown = dict(zip(cases, inspector.judge(cases.values()), strict=True))
    for name, (bundle, policy) in cases.items():
        expected = python_outcome(bundle, policy)
        assert shown[name].shape == expected.shape, name
        if policy is not None:
            assert shown[name].steps == expected.steps, name
    return shown


def with_part(world: World, **parts: bytes) -> bytes:
    return dataclasses.replace(Bundle.from_bytes(world.bundle()), **parts).to_bytes()


def flipped(data: bytes, index: int) -> bytes:
    index %= len(data)
    return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]


def test_a_good_bundle_under_a_development_root_is_verified_and_not_confidential(
    inspector: Inspector, world: World
) -> None:
    shown = agreed(inspector, {"good": (world.bundle(), js(world.policy))})["good"]
    assert (shown.verdict, shown.code, len(shown.steps)) == ("not-confidential", "", 13)
    assert "Not confidential: a development root signed it, not AWS." in shown.text
    assert world.claims.request_hash.hex() in shown.text
    assert "Whose model it is" not in shown.text


def test_an_insecure_policy_and_debug_mode_show(inspector: Inspector, world: World) -> None:
    roots = world.policy.extra_roots
    anything = js(Policy.insecure_any_measurement(extra_roots=roots))
    debugged = EnclaveMeasurements(measurement_type="nitro-pcr", pcr0=bytes(48), pcr1=PCRS[1], pcr2=PCRS[2])
    debug = world.bundle(document=world.attest(pcrs={**PCRS, 0: bytes(48)}), enclave_measurements=debugged)
    shown = agreed(
        inspector,
        {
            "insecure": (world.bundle(), anything),
            "debug, accepted": (debug, anything),
            "debug, refused": (debug, js(world.policy)),
        },
    )
    assert "the policy accepts any measurement" in shown["insecure"].text
    assert "unchecked" in shown["insecure"].text
    assert "Which code ran" in shown["insecure"].text
    assert shown["debug, accepted"].verdict == "not-confidential"
    assert "debug mode (PCR0 is zero)" in shown["debug, accepted"].text
    assert shown["debug, refused"].code == "measurements.debug"


def test_without_a_policy_only_aws_is_trusted(inspector: Inspector, world: World) -> None:
    shown = agreed(inspector, {"development": (world.bundle(), None)})["development"]
    assert (shown.verdict, shown.code) == ("refused", "chain.untrusted_root")


def as_if_aws(world: World) -> str:
    """The page with the development root in the place of AWS's."""
    code = "\n".join(read_source(name) for name in SCRIPTS)
    assert code.count(AWS_NITRO_ROOT_G1_SHA256.hex()) == 1
    return assemble(code.replace(AWS_NITRO_ROOT_G1_SHA256.hex(), hashlib.sha256(world.root.der).hexdigest()))


def test_on_the_nitro_platform_a_pinned_enclave_is_confidential(
    browser: Inspector, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ephemeralml.attestation.chain.AWS_NITRO_ROOT_G1_SHA256", hashlib.sha256(world.root.der).digest()
    )
    path = tmp_path / "as-if-aws.html"
    path.write_text(as_if_aws(world), encoding="utf-8")
    browser.open(path)
    policy = js(Policy(measurements=world.policy.measurements))
    shown = agreed(
        browser,
        {
            "production": (world.bundle(security_mode="production"), policy),
            "evaluation": (world.bundle(security_mode="evaluation"), policy),
            "no policy": (world.bundle(security_mode="production"), None),
            "insecure": (world.bundle(security_mode="production"), js(Policy.insecure_any_measurement())),
        },
    )
    assert shown["production"].verdict == "verified"
    assert "Whose model it is" in shown["production"].text
    assert shown["evaluation"].code == "SECURITY_MODE_MISMATCH"
    assert shown["no policy"].verdict == "no-policy"
    assert "no policy says which enclave it should be" in shown["no policy"].text
    assert "NOT CHECKED: no policy was given" in shown["no policy"].text
    assert shown["insecure"].verdict == "not-confidential"


def reordered(value: Mapping[Any, Any]) -> bytes:
    """The map with its keys backwards."""
    entries = (cbor.encode(key) + cbor.encode(value[key]) for key in reversed(list(value)))
    return bytes([0xA0 | len(value)]) + b"".join(entries)


def tampered_documents(world: World) -> dict[str, tuple[bytes, str]]:
    document = world.document
    release = KeyReleaseBinding(package=b"p" * 16, model=world.manifest.digest).to_user_data()
    return {
        "document, first byte": (with_part(world, document=flipped(document, 0)), "parse.cose"),
        "document, header": (with_part(world, document=flipped(document, 4)), "parse.algorithm"),
        "document, a register": (
            with_part(world, document=document.replace(PCRS[4], b"x" * 48)),
            "signature.invalid",
        ),
        "document, the key": (
            with_part(world, document=document.replace(RECEIPT_KEY.public_key().public_bytes_raw(), b"k" * 32)),
            "signature.invalid",
        ),
        "document, signature": (with_part(world, document=flipped(document, -1)), "signature.invalid"),
        "document, trailing byte": (with_part(world, document=document + b"\0"), "parse.cose"),
        "document, truncated": (with_part(world, document=document[:-100]), "parse.cose"),
        "document of another session": (with_part(world, document=world.attest()), "ATTESTATION_DOC_HASH_MISMATCH"),
        "document for a key release": (world.bundle(document=world.attest(user_data=release)), "key_binding.user_data"),
        "document without a key": (world.bundle(document=world.attest(public_key=None)), "key_binding.receipt_key"),
        "document of another model": (world.bundle(document=world.attest(model=b"x" * 32)), "model.digest"),
        "document of other code": (
            world.bundle(document=world.attest(pcrs={**PCRS, 0: b"x" * 48})),
            "measurements.mismatch",
        ),
        "document in debug mode": (
            world.bundle(document=world.attest(pcrs={**PCRS, 0: bytes(48)})),
            "measurements.debug",
        ),
        "document under another root": (
            world.bundle(document=dataclasses.replace(world, root=DevelopmentRoot.create()).attest()),
            "chain.untrusted_root",
        ),
    }


def tampered_receipts(world: World) -> dict[str, tuple[bytes, str]]:
    receipt = Bundle.from_bytes(world.bundle()).receipt
    claims: Any = cbor.decode(cose.parse(receipt, tagged=True, limit=len(receipt)).payload)
    es256 = cbor.encode({cose.ALG: cose.ES256, cose.CONTENT_TYPE: 61})
    measured = dataclasses.replace(world.claims.enclave_measurements, pcr8=b"x" * 48)
    parts = {
        "receipt, garbage": (b"x", "COSE_DECODE_FAILED"),
        "receipt, untagged": (receipt[1:], "COSE_DECODE_FAILED"),
        "receipt, another algorithm": (seal(claims, protected=es256), "BAD_ALG"),
        "receipt, unprotected header": (seal(claims, unprotected={4: b"x"}), "NON_EMPTY_UNPROTECTED"),
        "receipt, envelope respelled": (receipt[:1] + b"\x98\x04" + receipt[2:], "NON_DETERMINISTIC_CBOR"),
        "receipt, keys out of order": (seal(reordered(claims)), "NON_DETERMINISTIC_CBOR"),
        "receipt, another profile": (seal({**claims, 265: "https://example.com"}), "WRONG_PROFILE"),
        "receipt, signature": (flipped(receipt, -1), "SIG_FAILED"),
        "receipt, short signature": (
            b"\xd2" + cbor.encode([*cbor.decode(receipt[1:])[:3], b"s" * 63]),  # type: ignore[index, misc]
            "BAD_SIG_LENGTH",
        ),
        "receipt, small-order commitment": (receipt[:-64] + b"\1" + bytes(63), "SIG_FAILED"),
        "receipt, unknown claim": (seal({**claims, 99: 1}), "UNKNOWN_CLAIM_KEY"),
        "receipt, no issuer": (seal({key: item for key, item in claims.items() if key != 1}), "MISSING_CLAIM"),
        "receipt, zero model hash": (seal({**claims, -65539: bytes(32)}), "ZERO_MODEL_HASH"),
    }
    changed: dict[str, tuple[dict[str, Any], str]] = {
        "receipt by another key": ({"key": Ed25519PrivateKey.generate()}, "SIG_FAILED"),
        "receipt, other measurements": ({"enclave_measurements": measured}, "MEASUREMENTS_MISMATCH"),
        "receipt, production": ({"security_mode": "production"}, "SECURITY_MODE_MISMATCH"),
        "receipt, no nonce": ({"eat_nonce": None}, "NONCE_MISSING"),
        "receipt, too early": ({"iat": 1}, "TIMESTAMP_BEFORE_EVIDENCE"),
        "receipt, too late": ({"iat": 2**64 - 1}, "TIMESTAMP_AFTER_SESSION"),
        "receipt, another precision": ({"model_version": "3+int8"}, "MODEL_VERSION_MISMATCH"),
        "receipt, another model": ({"model_hash": b"x" * 32}, "MODEL_HASH_MISMATCH"),
    }
    return {name: (with_part(world, receipt=raw), code) for name, (raw, code) in parts.items()} | {
        name: (world.bundle(**change), code) for name, (change, code) in changed.items()
    }


def tampered_files(world: World) -> dict[str, tuple[bytes, str]]:
    whole, manifest = world.bundle(), Bundle.from_bytes(world.bundle()).manifest
    value: Any = cbor.decode(whole)
    newer = dataclasses.replace(world.manifest, version=4)
    return {
        "empty": (b"", "BUNDLE_MALFORMED"),
        "garbage": (b"\xff" * 1000, "BUNDLE_MALFORMED"),
        "markup": (b"<img src=x onerror=alert(1)>", "BUNDLE_MALFORMED"),
        "truncated": (whole[:-1], "BUNDLE_MALFORMED"),
        # As a second bundle, which it is not.
        "one byte more": (whole + b"\0", "BUNDLE_FORMAT"),
        "zeros": (bytes(3_000_000), "BUNDLE_FORMAT"),
        "huge": (cbor.encode(bytes(3_000_000)), "BUNDLE_TOO_LARGE"),
        "one byte too large": (cbor.encode(bytes(MAX_BUNDLE_BYTES - 4)), "BUNDLE_TOO_LARGE"),
        "keys out of order": (reordered(value), "BUNDLE_MALFORMED"),
        "another format": (cbor.encode({**value, "format": "zip"}), "BUNDLE_FORMAT"),
        "a later version": (cbor.encode({**value, "version": 2}), "BUNDLE_VERSION"),
        "a field more": (cbor.encode({**value, "log": b"x"}), "BUNDLE_FIELDS"),
        "an empty part": (cbor.encode({**value, "receipt": b""}), "BUNDLE_FIELDS"),
        "manifest, garbage": (with_part(world, manifest=b"x"), "manifest.malformed"),
        "manifest, model renamed": (
            with_part(world, manifest=manifest.replace(b"all-MiniLM-L6-v2", b"all-MiniLM-L6-v3")),
            "manifest.signature",
        ),
        "manifest, signature": (with_part(world, manifest=flipped(manifest, -1)), "manifest.signature"),
        "manifest of another version": (world.bundle(manifest=newer), "model.digest"),
    }


@pytest.mark.parametrize("tamper", [tampered_files, tampered_documents, tampered_receipts])
def test_what_was_tampered_with_is_refused_as_python_refuses_it(
    inspector: Inspector, world: World, tamper: Callable[[World], dict[str, tuple[bytes, str]]]
) -> None:
    cases = tamper(world)
    shown = agreed(inspector, {name: (bundle, js(world.policy)) for name, (bundle, _) in cases.items()})
    assert {name: outcome.code for name, outcome in shown.items()} == {name: code for name, (_, code) in cases.items()}
    assert all("What the receipt says" not in outcome.text for outcome in shown.values())


def test_a_document_outside_its_certificates_life_is_refused(inspector: Inspector, world: World) -> None:
    chain = world.root.issue_chain(module_id="i-0-enc0", now=MADE)
    payload = cbor.decode_foreign(cose.parse(world.document, tagged=False, limit=1 << 15).payload)
    assert isinstance(payload, dict)
    cases = {}
    for code, made in (
        ("chain.expired", MADE + timedelta(hours=4)),
        ("chain.not_yet_valid", MADE - timedelta(minutes=1)),
    ):
        fields = {
            **payload,
            "timestamp": int(made.timestamp() * 1000),
            "certificate": chain.certificate,
            "cabundle": list(chain.cabundle),
        }
        document = cose.sign(cbor.encode(fields), chain.key, protected={cose.ALG: cose.ES384}, tagged=False)
        cases[code] = (with_part(world, document=document), js(world.policy))
    assert {name: outcome.code for name, outcome in agreed(inspector, cases).items()} == {code: code for code in cases}


def test_policies_are_read_as_python_reads_them(inspector: Inspector, world: World) -> None:
    bundle = world.bundle()
    good: Any = json.loads(world.policy.to_json())
    registers = good["measurements"][0]
    other = {**registers, "pcr0": "78" * 48}
    changes: dict[str, tuple[Any, str]] = {
        "measurements.mismatch": ({"measurements": [other]}, "measurements.mismatch"),
        "one of two releases": ({"measurements": [other, registers]}, ""),
        "another model": ({"models": ["78" * 32]}, "model.not_allowed"),
        "another name": ({"model_id": "another"}, "model.id"),
        "this name": ({"model_id": "all-MiniLM-L6-v2", "minimum_model_version": 3}, ""),
        "a later version": ({"minimum_model_version": 4}, "model.version"),
        "aws only": ({"extra_roots": []}, "chain.untrusted_root"),
        "version 2": ({"version": 2}, "policy.version"),
        "version 1.0": ({"version": 1.0}, "policy.version"),
        "version true": ({"version": True}, "policy.version"),
        "unknown key": ({"mesurements": []}, "policy.unknown_key"),
        "no measurements": ({"measurements": []}, "policy.measurements"),
        "measurements null": ({"measurements": None}, "policy.measurements"),
        "a register missing": ({"measurements": [{"pcr0": "78" * 48}]}, "policy.measurement"),
        "zero register": ({"measurements": [{**registers, "pcr1": "00" * 48}]}, "policy.zero_measurement"),
        "short register": ({"measurements": [{**registers, "pcr1": "00" * 47}]}, "policy.measurement"),
        "both": ({"insecure_any_measurement": True}, "policy.insecure"),
        "models null": ({"models": None}, "policy.models"),
        "model not hex": ({"models": ["x" * 64]}, "policy.model"),
        "empty name": ({"model_id": ""}, "policy.model_id"),
        "minimum zero": ({"minimum_model_version": 0}, "policy.minimum_model_version"),
        "minimum 1.5": ({"minimum_model_version": 1.5}, "policy.minimum_model_version"),
        "root not base64": ({"extra_roots": ["*"]}, "policy.extra_root"),
        "root not a certificate": ({"extra_roots": ["AAAA"]}, "policy.extra_root"),
    }
    texts = {name: (json.dumps({**good, **change}).encode(), code) for name, (change, code) in changes.items()}
    texts |= {
        "not json": (b"{", "policy.json"),
        "repeated key": (b'{"version": 1, "version": 1}', "policy.json"),
        "an array": (b"[]", "policy.json"),
        "a byte order mark": (b"\xef\xbb\xbf" + world.policy.to_json().encode(), "policy.json"),
        "deep": (b"[" * 100_000, "policy.json"),
    }
    shown = agreed(inspector, {name: (bundle, text) for name, (text, _) in texts.items()})
    assert {name: outcome.code for name, outcome in shown.items()} == {name: code for name, (_, code) in texts.items()}


def test_documents_of_others_are_judged_as_python_judges_them(
    inspector: Inspector, world: World, vectors: Path
) -> None:
    own_root = js(Policy.insecure_any_measurement(extra_roots=[(vectors / "nitro-bad" / "test_root.der").read_bytes()]))
    cases: dict[str, Case] = {}
    for path in (*(vectors / "nitro-docs").glob("*.bin"), *(vectors / "nitro-bad").glob("*.bin")):
        # A bundle has no empty parts.
        if not (raw := path.read_bytes()):
            continue
        bundle = with_part(world, document=raw)
        cases |= {
            f"{path.name}, no policy": (bundle, None),
            f"{path.name}, their root": (bundle, own_root),
            f"{path.name}, ours": (bundle, js(world.policy)),
        }
        with suppress(AttestationError):
            pcrs = AttestationDocument.parse(raw).pcrs
            if any(pcrs[0]):
                pinned = Policy(measurements=[Measurements(pcr0=pcrs[0], pcr1=pcrs[1], pcr2=pcrs[2])])
                cases[f"{path.name}, pinned"] = (bundle, js(pinned))
    shown = agreed(inspector, cases)
    # AWS's own chain, verified in the browser: what is refused is what comes after it.
    genuine = [shown[f"{path.name}, no policy"] for path in (vectors / "nitro-docs").glob("*.bin")]
    assert len(genuine) == 36
    for outcome in genuine:
        assert outcome.steps[3][:2] == ("chain", True)
        assert outcome.steps[3][2].startswith("to the AWS Nitro root G1, valid at ")
        assert outcome.code.startswith("key_binding.")


def test_receipts_of_others_are_judged_as_python_judges_them(inspector: Inspector, world: World, vectors: Path) -> None:
    cases = {}
    for path in sorted((vectors / "air-v1").glob("*valid/*.json")):
        vector = json.loads(path.read_text())
        key = bytes.fromhex(vector.get("public_key_hex") or vector["wrong_public_key_hex"])
        bundle = world.bundle(document=world.attest(public_key=key), receipt=bytes.fromhex(vector["receipt_hex"]))
        cases[path.stem] = (bundle, js(world.policy))
    shown = agreed(inspector, cases)
    assert len(cases) == 10
    codes = {outcome.code for outcome in shown.values()}
    assert {"BAD_ALG", "SIG_FAILED", "ZERO_MODEL_HASH", "BAD_MEASUREMENT_LENGTH"} < codes
    # The valid ones pass layers 1 to 3; no bundle of ours is what they were issued for.
    assert shown["v1-tdx-with-nonce"].code == "ATTESTATION_DOC_HASH_MISMATCH"
    assert len(shown["v1-tdx-with-nonce"].steps) == 13

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ephemeralml.codec import cbor, cose
from ephemeralml.errors import PackageError
from ephemeralml.package import Artifact, KeyRecord, Manifest, ModelSpec, encryption_context, stream
from ephemeralml.package.manifest import MAX_ARTIFACTS, MAX_MANIFEST_SIZE, is_artifact_name

MakeManifest = Callable[..., Manifest]
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OWNER = KEY.public_key().public_bytes_raw()
ARN = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

TEXT = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=256)
NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,20}){0,3}", fullmatch=True)


@st.composite
def artifacts(draw: st.DrawFn) -> Artifact:
    size, chunk_size = draw(st.integers(0, 4 << 30)), draw(st.integers(4 << 10, 16 << 20))
    return Artifact(
        name=draw(NAMES),
        size=size,
        ciphertext_size=stream.ciphertext_size(size, chunk_size),
        sha256=draw(st.binary(min_size=32, max_size=32)),
        salt=draw(st.binary(min_size=32, max_size=32)),
        chunk_size=chunk_size,
    )


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    package_id, model_id = draw(st.binary(min_size=16, max_size=16)), draw(TEXT)
    return Manifest(
        package_id=package_id,
        model_id=model_id,
        version=draw(st.integers(1, 2**63 - 1)),
        spec=ModelSpec(
            architecture="BertModel",
            pooling=draw(st.sampled_from(["mean", "cls"])),
            normalize=draw(st.booleans()),
            max_sequence_length=draw(st.integers(3, 8192)),
            dimension=draw(st.integers(1, 8192)),
        ),
        created_at=draw(st.integers(0, 253402300799)),
        license=draw(TEXT),
        owner=OWNER,
        artifacts=tuple(draw(st.lists(artifacts(), min_size=1, max_size=5, unique_by=lambda item: item.name))),
        key=KeyRecord(
            provider="aws-kms",
            key_arn=ARN,
            encryption_context=encryption_context(package_id, model_id),
            wrapped_dek=draw(st.binary(min_size=1, max_size=6144)),
        ),
    )


def sign_value(value: object, *, key: Ed25519PrivateKey = KEY, alg: int = cose.EDDSA) -> bytes:
    return cose.sign(cbor.encode(value), key, protected={cose.ALG: alg}, tagged=True)


def refused(signed: bytes, *, owner: bytes | None = OWNER) -> str:
    with pytest.raises(PackageError) as caught:
        Manifest.verify(signed, owner=owner)
    return caught.value.code


@pytest.fixture(scope="module")
def manifest(make_manifest: MakeManifest) -> Manifest:
    return make_manifest(owner=OWNER)


@pytest.fixture
def fields(manifest: Manifest) -> dict[str, Any]:
    """The payload as a map, to be broken."""
    value = cbor.decode(manifest.to_payload())
    assert isinstance(value, dict)
    return {str(name): item for name, item in value.items()}


@given(manifests())
def test_round_trip(manifest: Manifest) -> None:
    signed = manifest.sign(KEY)
    for owner in (OWNER, None):
        back = Manifest.verify(signed, owner=owner)
        assert back == manifest
        assert back.digest == manifest.digest


def test_the_digest_is_that_of_the_signed_payload(manifest: Manifest) -> None:
    message = cose.parse(manifest.sign(KEY), tagged=True, limit=MAX_MANIFEST_SIZE)
    assert message.protected == bytes.fromhex("a10127")
    assert manifest.digest == hashlib.sha256(message.payload).digest()
    assert cbor.decode(message.payload) == cbor.decode(manifest.to_payload())


def test_the_payload_names_its_type_and_format(fields: dict[str, Any]) -> None:
    assert (fields["type"], fields["format"]) == ("ephemeralml-manifest", 1)
    for name, value, code in (
        ("type", "other", "malformed"),
        ("type", 1, "malformed"),
        ("format", 2, "format"),
        ("format", True, "format"),
        ("format", "1", "format"),
        ("format", None, "format"),
    ):
        assert refused(sign_value({**fields, name: value})) == f"manifest.{code}"
    del fields["format"]
    assert refused(sign_value(fields)) == "manifest.format"


def test_wrong_owner(manifest: Manifest, fields: dict[str, Any]) -> None:
    other = Ed25519PrivateKey.generate()
    signed = manifest.sign(KEY)
    assert refused(signed, owner=other.public_key().public_bytes_raw()) == "manifest.owner"
    assert refused(signed, owner=OWNER[:31]) == "manifest.owner"
    assert refused(signed, owner=b"") == "manifest.owner"
    # Signed by another in the owner's name.
    assert refused(sign_value(fields, key=other)) == "manifest.signature"
    assert refused(sign_value(fields, key=other), owner=None) == "manifest.signature"
    with pytest.raises(PackageError) as caught:
        manifest.sign(other)
    assert caught.value.code == "manifest.owner"


def test_a_small_order_owner_signs_nothing(fields: dict[str, Any]) -> None:
    fields["owner"] = (1).to_bytes(32, "little")
    payload = cbor.encode(fields)
    forged = b"\xd2" + cbor.encode([b"\xa1\x01\x27", {}, payload, fields["owner"] + bytes(32)])
    assert refused(forged, owner=None) == "manifest.signature"


def test_envelope(manifest: Manifest, fields: dict[str, Any]) -> None:
    signed = manifest.sign(KEY)
    payload = manifest.to_payload()
    signature = signed[-64:]
    assert refused(signed[1:]) == "manifest.malformed"
    assert refused(signed + b"\x00") == "manifest.malformed"
    assert refused(b"") == "manifest.malformed"
    assert refused(sign_value(fields, alg=cose.ES384)) == "manifest.malformed"
    for envelope in (
        cbor.encode([b"\xa1\x01\x27", {4: b"kid"}, payload, signature]),
        b"\x9f" + signed[2:] + b"\xff",
        cbor.encode([b"", {}, payload, signature]),
    ):
        assert refused(b"\xd2" + envelope) == "manifest.malformed"
    assert refused(b"\xd2" + cbor.encode([b"\xa1\x01\x27", {}, payload, signature[:63]])) == "manifest.signature"


def test_the_payload_is_deterministic(fields: dict[str, Any]) -> None:
    payload = cbor.encode(fields)
    for other in (
        payload + b"\x00",
        b"\xb8" + bytes([len(fields)]) + payload[1:],
        b"\xbf" + payload[1:] + b"\xff",
        b"",
    ):
        signed = cose.sign(other, KEY, protected={cose.ALG: cose.EDDSA}, tagged=True)
        assert refused(signed) == "manifest.malformed"


@pytest.mark.parametrize("value", [None, 1, [], {}, {"type": "ephemeralml-manifest"}, {"owner": OWNER}])
def test_not_a_manifest(value: object) -> None:
    assert refused(sign_value(value)) == "manifest.malformed"


def test_every_field_is_needed_and_no_other_allowed(fields: dict[str, Any]) -> None:
    for path in ((), ("spec",), ("key",), ("artifacts", 0), ("key", "encryption_context")):
        inner: Any = fields
        for step in path:
            inner = inner[step]
        for name in list(inner):
            if (path, name) == ((), "format"):
                continue
            value = inner.pop(name)
            assert refused(sign_value(fields)) == "manifest.malformed", name
            inner[name] = value
        for extra in ("extra", 0):
            inner[extra] = 1
            assert refused(sign_value(fields)) == "manifest.malformed"
            del inner[extra]
    Manifest.verify(sign_value(fields), owner=OWNER)


def test_every_field_has_one_type(fields: dict[str, Any]) -> None:
    others: list[object] = [None, True, 7, b"x", "x", [], {}]
    for path in ((), ("spec",), ("key",), ("artifacts", 0), ("key", "encryption_context")):
        inner: Any = fields
        for step in path:
            inner = inner[step]
        for name, good in list(inner.items()):
            for bad in others:
                if type(bad) is type(good):
                    continue
                inner[name] = bad
                with pytest.raises(PackageError) as caught:
                    Manifest.verify(sign_value(fields), owner=None)
                assert caught.value.code in {"manifest.malformed", "manifest.format"}, (name, bad)
            inner[name] = good
    Manifest.verify(sign_value(fields), owner=OWNER)


@pytest.mark.parametrize(
    "change",
    [
        {"package_id": bytes(15)},
        {"package_id": bytes(17)},
        {"model_id": ""},
        {"model_id": "x" * 257},
        {"model_id": "a\x1b[2J"},
        {"model_id": "a\u202eb"},
        {"license": "two\nlines"},
        {"version": 0},
        {"version": -1},
        {"version": True},
        {"version": 2**63},
        {"created_at": -1},
        {"created_at": 253402300800},
        {"owner": bytes(31)},
        {"artifacts": ()},
    ],
    ids=repr,
)
def test_limits(change: dict[str, object], make_manifest: MakeManifest) -> None:
    with pytest.raises(PackageError) as caught:
        make_manifest(**change)
    assert caught.value.code == "manifest.malformed"


@pytest.mark.parametrize(
    "change",
    [
        {"size": -1},
        {"size": (4 << 30) + 1},
        {"size": 4999},
        {"ciphertext_size": 5000},
        {"chunk_size": 4095},
        {"chunk_size": (16 << 20) + 1},
        {"chunk_size": 0},
        {"sha256": bytes(31)},
        {"salt": bytes(33)},
        {"name": "../x"},
    ],
    ids=repr,
)
def test_artifact_limits(change: dict[str, Any], manifest: Manifest) -> None:
    with pytest.raises(PackageError) as caught:
        dataclasses.replace(manifest.artifacts[0], **change)
    assert caught.value.code == "manifest.malformed"


@pytest.mark.parametrize("name", ["a", "a.b", "1_Pooling/config.json", "_", "a-b/c_d/e.f", "x" * 255])
def test_artifact_names(name: str) -> None:
    assert is_artifact_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../a", "a/../b", "a/..", "/a", "a/", "a//b", "./a", "a/.b", ".a", "a\\b", "C:\\a", "C:a"),
        *("a b", "a\n", "a\x00", "é", "~", "-a", "a/-b", "x" * 256, "a:b", "*", None, 1, b"a"),
    ],
)
def test_unsafe_artifact_names(name: object) -> None:
    assert not is_artifact_name(name)


def test_artifact_names_are_unique_and_few(make_manifest: MakeManifest, manifest: Manifest) -> None:
    (weights,) = manifest.artifacts
    with pytest.raises(PackageError, match="one name"):
        make_manifest(artifacts=(weights, dataclasses.replace(weights, salt=b"x" * 32)))
    many = tuple(dataclasses.replace(weights, name=f"a{index}") for index in range(MAX_ARTIFACTS + 1))
    assert len(make_manifest(artifacts=many[:-1]).artifacts) == MAX_ARTIFACTS
    with pytest.raises(PackageError, match="1 to 64"):
        make_manifest(artifacts=many)


@pytest.mark.parametrize(
    "arn",
    [
        ARN,
        "arn:aws-cn:kms:cn-north-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab",
    ],
)
def test_key_arns(arn: str, manifest: Manifest) -> None:
    assert dataclasses.replace(manifest.key, key_arn=arn).key_arn == arn


@pytest.mark.parametrize(
    "arn",
    [
        "arn:aws:kms:us-east-1:111122223333:alias/model",
        "alias/model",
        "1234abcd-12ab-34cd-56ef-1234567890ab",
        ARN + "\n",
        ARN + "0",
        ARN.upper(),
        ARN.replace("kms", "s3"),
        ARN.replace("111122223333", "1111"),
        ARN.replace("111122223333", "11112222333\u0663"),
        ARN.replace("us-east-1", ""),
        ARN.replace("arn:aws", "arn:gcp"),
        ARN.replace("1234abcd-12ab", "*"),
        "",
    ],
)
def test_aliases_and_other_arns_are_refused(arn: str, manifest: Manifest) -> None:
    with pytest.raises(PackageError) as caught:
        dataclasses.replace(manifest.key, key_arn=arn)
    assert caught.value.code == "manifest.malformed"


def test_key_record_limits(manifest: Manifest, make_manifest: MakeManifest) -> None:
    for change in ({"provider": "other"}, {"wrapped_dek": b""}, {"wrapped_dek": bytes(6145)}):
        with pytest.raises(PackageError) as caught:
            dataclasses.replace(manifest.key, **change)
        assert caught.value.code == "manifest.malformed"
    for context in ({}, encryption_context(bytes(16), "test/model"), {**manifest.key.encryption_context, "a": "b"}):
        with pytest.raises(PackageError, match="encryption_context"):
            make_manifest(key=dataclasses.replace(manifest.key, encryption_context=context))


def test_a_manifest_cannot_be_changed(manifest: Manifest) -> None:
    with pytest.raises(TypeError):
        manifest.key.encryption_context["a"] = "b"  # type: ignore[index]


def test_a_model_of_a_newer_release_is_refused_by_name(fields: dict[str, Any]) -> None:
    for name, value in (("architecture", "GPT9"), ("pooling", "max"), ("precision", "fp4"), ("dimension", 2**40)):
        signed = sign_value({**fields, "spec": {**fields["spec"], name: value}})
        assert refused(signed) == "manifest.unsupported"
        with pytest.raises(PackageError, match=str(value)):
            Manifest.verify(signed, owner=OWNER)


def test_artifact_by_name(manifest: Manifest) -> None:
    assert manifest.artifact("model.safetensors") is manifest.artifacts[0]
    with pytest.raises(PackageError) as caught:
        manifest.artifact("other")
    assert caught.value.code == "artifact.unknown"


def test_size_limit(make_manifest: MakeManifest, manifest: Manifest) -> None:
    (weights,) = manifest.artifacts
    artifacts = tuple(
        dataclasses.replace(weights, name=f"{index:02}".ljust(255, "x")) for index in range(MAX_ARTIFACTS)
    )
    text = "\U00010151" * 256
    # Every field within its own limit: what `sign` writes can be verified, or it is not written.
    for wrapped, fits in ((3000, True), (6144, False)):
        context = encryption_context(manifest.package_id, text)
        key = dataclasses.replace(manifest.key, encryption_context=context, wrapped_dek=bytes(wrapped))
        large = make_manifest(owner=OWNER, model_id=text, license=text, artifacts=artifacts, key=key)
        if fits:
            signed = large.sign(KEY)
            assert MAX_MANIFEST_SIZE - 4096 < len(signed) <= MAX_MANIFEST_SIZE
            assert Manifest.verify(signed, owner=OWNER) == large
        else:
            with pytest.raises(PackageError) as caught:
                large.sign(KEY)
            assert caught.value.code == "manifest.too_large"
    assert refused(bytes(MAX_MANIFEST_SIZE + 1)) == "manifest.too_large"


@settings(max_examples=300)
@given(st.binary(max_size=400) | st.binary(max_size=400).map(lambda data: b"\xd2\x84\x43\xa1\x01\x27\xa0" + data))
@example(b"\xd2\x84\x43\xa1\x01\x27\xa0\x41\xa0\x40")
def test_any_bytes_are_refused(data: bytes) -> None:
    assert refused(data, owner=None) == "manifest.malformed"


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10) | st.integers(0, 9), inner),
    max_leaves=10,
)


@settings(max_examples=300)
@given(manifests(), JSON, st.data())
def test_any_signed_value_in_any_place(manifest: Manifest, value: object, data: st.DataObject) -> None:
    # The owner's own signature on nonsense: the parser is what refuses.
    fields: Any = cbor.decode(manifest.to_payload())
    inner = data.draw(st.sampled_from([fields, fields["spec"], fields["key"], fields["artifacts"][0]]))
    inner[data.draw(st.sampled_from(sorted(inner)))] = value
    try:
        back = Manifest.verify(sign_value(fields), owner=None)
    except PackageError:
        return
    assert cbor.decode(back.to_payload()) == fields


@settings(max_examples=300)
@given(st.data())
def test_no_bit_flip_is_accepted(manifest: Manifest, data: st.DataObject) -> None:
    signed = bytearray(manifest.sign(KEY))
    signed[data.draw(st.integers(0, len(signed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    for owner in (OWNER, None):
        with pytest.raises(PackageError):
            Manifest.verify(bytes(signed), owner=owner)

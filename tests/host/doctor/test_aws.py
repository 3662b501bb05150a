"""Checks of AWS: the local KMS for the key, an S3 and STS server, and recorded answers for what those never say.

Last, the whole list, on an instance laid out in a folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from eif import forge
from moto.server import ThreadedMotoServer
from samples import OWNER, make_manifest

from ephemeralml.attestation import Measurements
from ephemeralml.devcloud.kms import Credential, KmsServer
from ephemeralml.host.doctor import Plan, Platform, aws, examine, instance, machine, ready
from ephemeralml.host.doctor.finding import Finding, State
from ephemeralml.host.key_policy import key_policy
from ephemeralml.host.kms_keys import KmsKeys
from ephemeralml.image import measure_eif
from ephemeralml.package import Manifest
from ephemeralml.package.source import ARTIFACT_SUFFIX, MANIFEST_FILE
from ephemeralml.package.stream import make_header

HOST = Credential("AKIDHOST", "host-secret", "arn:aws:iam::000000000000:role/host")
ADMIN = Credential("AKIDADMIN", "admin-secret", "arn:aws:iam::000000000000:user/admin")
REGION = "us-east-1"
KEY_ARN = f"arn:aws:kms:{REGION}:000000000000:key/12345678-1234-1234-1234-123456789abc"
IMAGE = Measurements(pcr0=b"\1" * 48, pcr1=b"\2" * 48, pcr2=b"\3" * 48)
OTHER = Measurements(pcr0=b"\4" * 48, pcr1=b"\2" * 48, pcr2=b"\3" * 48)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    sign_as(monkeypatch, HOST)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def kms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KmsServer]:
    with KmsServer(store=tmp_path / "kms.sqlite", credentials=[HOST, ADMIN], roots=[]) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", server.url)
        yield server


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto)
    client = boto3.session.Session().client("s3", region_name=REGION)
    client.create_bucket(Bucket="models")
    yield client
    client.close()


def sign_as(monkeypatch: pytest.MonkeyPatch, who: Credential) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", who.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", who.secret_access_key)


def make_key(
    monkeypatch: pytest.MonkeyPatch, *releases: Measurements, readable: bool = True, host: Credential = HOST
) -> str:
    """A key in the local KMS, under the policy of `kms policy`."""
    admin = ADMIN.principal_arn
    policy = json.loads(key_policy(measurements=releases, roles=[host.principal_arn], admin=admin, owner=admin))
    if not readable:
        policy["Statement"] = [item for item in policy["Statement"] if item["Sid"] != "ExplainRefusals"]
    sign_as(monkeypatch, ADMIN)
    arn = KmsKeys(region=REGION).create(json.dumps(policy), description="")
    sign_as(monkeypatch, host)
    return arn


def packed_under(key_arn: str) -> Manifest:
    manifest = make_manifest()
    return replace(manifest, key=replace(manifest.key, key_arn=key_arn))


@pytest.mark.usefixtures("kms")
def test_a_key_that_is_released_to_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    arn = make_key(monkeypatch, OTHER, IMAGE)
    found = aws.key(arn, None, IMAGE, caller=HOST.principal_arn)
    assert found.state is State.OK
    assert IMAGE.pcr0.hex()[:16] in found.reason
    assert aws.key(None, packed_under(arn), IMAGE, caller=HOST.principal_arn).state is State.OK
    assert aws.key(arn, packed_under(arn), IMAGE, caller=HOST.principal_arn).state is State.OK


@pytest.mark.usefixtures("kms")
def test_a_key_for_other_images(monkeypatch: pytest.MonkeyPatch) -> None:
    found = aws.key(make_key(monkeypatch, OTHER), None, IMAGE, caller=HOST.principal_arn)
    assert found.state is State.FAILED
    assert "kms policy" in found.fix


@pytest.mark.usefixtures("kms")
def test_a_key_for_another_host(monkeypatch: pytest.MonkeyPatch) -> None:
    arn = make_key(monkeypatch, IMAGE)
    found = aws.key(arn, None, IMAGE, caller="arn:aws:sts::000000000000:assumed-role/other/i-0")
    assert found.state is State.FAILED
    assert aws.key(arn, None, IMAGE, caller=None).state is State.UNKNOWN


@pytest.mark.usefixtures("kms")
def test_another_key_than_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    found = aws.key(make_key(monkeypatch, IMAGE), packed_under(KEY_ARN), IMAGE, caller=HOST.principal_arn)
    assert found.state is State.FAILED
    assert KEY_ARN in found.reason


@pytest.mark.usefixtures("kms")
def test_what_could_not_be_looked_at_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert aws.key(None, None, IMAGE, caller=HOST.principal_arn).state is State.UNKNOWN
    assert aws.key(make_key(monkeypatch, IMAGE), None, None, caller=HOST.principal_arn).state is State.UNKNOWN
    found = aws.key(make_key(monkeypatch, IMAGE, readable=False), None, IMAGE, caller=HOST.principal_arn)
    assert found.state is State.UNKNOWN
    assert "kms:GetKeyPolicy" in found.fix


@pytest.mark.usefixtures("kms")
@pytest.mark.parametrize("arn", ["alias/model", "12345678", KEY_ARN.replace("key/", "alias/"), KEY_ARN])
def test_no_such_key(arn: str) -> None:
    assert aws.key(arn, None, IMAGE, caller=HOST.principal_arn).state is State.FAILED


@pytest.mark.usefixtures("kms")
def test_credentials_that_kms_does_not_accept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    found = aws.key(KEY_ARN, None, IMAGE, caller=HOST.principal_arn)
    assert found.state is State.FAILED
    assert "InvalidSignatureException" in found.reason


@pytest.mark.parametrize("policy", ["", "[]", '{"Statement": [1]}'])
@pytest.mark.parametrize("state", ["Enabled", "Disabled", "PendingDeletion", "PendingImport"])
def test_a_key_that_is_not_enabled_or_has_a_broken_policy(
    monkeypatch: pytest.MonkeyPatch, state: str, policy: str
) -> None:
    """Answers the local KMS never gives, since it disables nothing and takes no such policy."""
    monkeypatch.setattr(KmsKeys, "describe", lambda *_: {"KeyState": state})
    monkeypatch.setattr(KmsKeys, "policy", lambda *_: policy)
    assert aws.key(KEY_ARN, None, IMAGE, caller=HOST.principal_arn).state is State.FAILED
    monkeypatch.setattr(
        KmsKeys,
        "policy",
        lambda *_: key_policy(
            measurements=[IMAGE],
            roles=[HOST.principal_arn],
            admin=ADMIN.principal_arn,
            owner=ADMIN.principal_arn,
        ),
    )
    found = aws.key(KEY_ARN, None, IMAGE, caller=HOST.principal_arn)
    assert found.state is (State.OK if state == "Enabled" else State.FAILED)
    assert state == "Enabled" or state in found.reason


def test_the_role_and_the_time_of_aws(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto)
    found, _, server = aws.role()
    assert found.state is State.OK
    assert found.reason.startswith("arn:aws:")
    assert server is not None
    assert server.tzinfo is not None
    fast = machine.clock(server=server, now=server + timedelta(minutes=4), read=lambda: (0, 0))
    assert fast.state is State.FAILED


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"date": "soon"}, None),
        ({"date": "Thu, 01 Jan 2026 00:00:00 GMT"}, datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_the_date_of_an_answer(
    monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], expected: datetime | None
) -> None:
    client = boto3.session.Session().client("sts", region_name=REGION)
    monkeypatch.setattr(boto3.session.Session, "client", lambda *_, **__: client)
    with Stubber(client) as stubber:
        answer = {"Arn": HOST.principal_arn, "ResponseMetadata": {"HTTPHeaders": headers}}
        stubber.add_response("get_caller_identity", answer)
        found, _, server = aws.role()
    assert (found.state, server) == (State.OK, expected)


def test_credentials_that_have_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    client = boto3.session.Session().client("sts", region_name=REGION)
    monkeypatch.setattr(boto3.session.Session, "client", lambda *_, **__: client)
    with Stubber(client) as stubber:
        stubber.add_client_error("get_caller_identity", service_error_code="ExpiredToken", http_status_code=403)
        found, _, server = aws.role()
    assert (found.state, server) == (State.FAILED, None)
    assert "ExpiredToken" in found.reason


def test_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    found, _, server = aws.role()
    assert (found.state, server) == (State.FAILED, None)
    assert "no AWS credentials" in found.reason


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9"),
        ("AWS_ENDPOINT_URL_STS", "not a url"),
        ("AWS_PROFILE", "nobody"),
        ("AWS_DEFAULT_REGION", "no region"),
    ],
)
def test_aws_that_cannot_be_asked(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    found, _, _ = aws.role()
    assert found.state is State.FAILED
    assert "could not be asked" in found.reason
    assert found.fix


def put_package(bucket: Any, prefix: str, manifest: Manifest, *, longer: int = 0) -> None:
    bucket.put_object(Bucket="models", Key=f"{prefix}/{MANIFEST_FILE}", Body=manifest.sign(OWNER))
    for item in manifest.artifacts:
        key = f"{prefix}/{manifest.package_id.hex()}/{item.name}{ARTIFACT_SUFFIX}"
        bucket.put_object(Bucket="models", Key=key, Body=b"x" * (item.ciphertext_size + longer))


@pytest.mark.parametrize("longer", [-1, 1, 1000])
def test_an_artifact_of_another_size_in_a_bucket(bucket: Any, longer: int) -> None:
    put_package(bucket, "sized", make_manifest(), longer=longer)
    assert aws.package("s3://models/sized")[0].state is State.FAILED


def test_a_manifest_alone_is_no_package(bucket: Any) -> None:
    bucket.put_object(Bucket="models", Key=f"alone/{MANIFEST_FILE}", Body=make_manifest().sign(OWNER))
    assert aws.package("s3://models/alone")[0].state is State.FAILED


def test_a_package_in_a_bucket(bucket: Any) -> None:
    manifest = make_manifest()
    put_package(bucket, "release/package", manifest)
    for location in ("s3://models/release/package", "s3://models/release/package/"):
        found, read = aws.package(location)
        assert found.state is State.OK
        assert read == manifest
    bucket.put_object(Bucket="models", Key=f"forged/{MANIFEST_FILE}", Body=b"x" * 700)
    for location in ("s3://models/other", "s3://models", "s3://nobodys/release/package", "s3://models/forged", "s3://"):
        found, read = aws.package(location)
        assert (found.state, read) == (State.FAILED, None)
        assert "ephemeralml push" in found.fix


def test_what_others_wrote_commands_no_terminal_and_begins_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    evil = "Disabled\x1b[2J\nkey ok"
    monkeypatch.setattr(KmsKeys, "describe", lambda *_: {"KeyState": evil})
    monkeypatch.setattr(KmsKeys, "policy", lambda *_: "")
    found = aws.key(KEY_ARN, None, None, caller=HOST.principal_arn)
    assert found.state is State.FAILED
    assert "Disabled?[2J?key ok" in found.reason


def test_whose_package_it_is_is_judged_by_the_configuration_and_otherwise_left_open(bucket: Any) -> None:
    manifest = make_manifest()
    put_package(bucket, "owned", manifest)
    found, _ = aws.package("s3://models/owned")
    assert found.state is State.OK
    assert "not checked" in found.reason
    assert manifest.owner.hex()[:16] in found.reason
    found, _ = aws.package("s3://models/owned", owner=manifest.owner)
    assert found.state is State.OK
    assert "not checked" not in found.reason
    found, read = aws.package("s3://models/owned", owner=b"x" * 32)
    assert (found.state, read) == (State.FAILED, None)
    assert "model owner" in found.reason


def test_a_package_in_a_folder(tmp_path: Path) -> None:
    manifest = make_manifest()
    assert aws.package(str(tmp_path))[0].state is State.FAILED
    (tmp_path / MANIFEST_FILE).write_bytes(manifest.sign(OWNER))
    found, _ = aws.package(str(tmp_path))
    assert found.state is State.FAILED
    assert "incomplete" in found.reason
    (artifact,) = manifest.artifacts
    file = tmp_path / (artifact.name + ARTIFACT_SUFFIX)
    good = make_header(package_id=manifest.package_id, salt=artifact.salt, chunk_size=artifact.chunk_size)
    good += bytes(artifact.ciphertext_size - len(good))
    for wrong in (b"", good[:-1], good + b"x", b"x" + good[1:]):
        file.write_bytes(wrong)
        assert aws.package(str(tmp_path))[0].state is State.FAILED
    file.write_bytes(good)
    found, read = aws.package(str(tmp_path))
    assert (found.state, read) == (State.OK, manifest)
    assert "version 3" in found.reason
    (tmp_path / MANIFEST_FILE).write_bytes(b"not one")
    assert aws.package(str(tmp_path))[0].state is State.FAILED


def test_no_package() -> None:
    assert aws.package(None)[0].state is State.UNKNOWN


@pytest.fixture
def eif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image, and what the checks of an instance look at, laid out in one folder."""
    files = {
        "allocator.yaml": "---\nmemory_mib: 1024\ncpu_count: 2\n",
        "present": "0-3\n",
        "ne_cpus": "1,3\n",
        "hugepages/hugepages-2048kB/nr_hugepages": "512\n",
        "hugepages/hugepages-2048kB/free_hugepages": "512\n",
        "bin/nitro-cli": "#!/bin/sh\necho Nitro CLI 1.4.2\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "bin" / "nitro-cli").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    for check in (
        partial(instance.allocator_settings, path=tmp_path / "allocator.yaml"),
        partial(instance.cpu_pool, pool=tmp_path / "ne_cpus", present=tmp_path / "present"),
        partial(instance.huge_pages, folder=tmp_path / "hugepages"),
    ):
        monkeypatch.setattr(instance, check.func.__name__, check)
    device = instance.device
    monkeypatch.setattr(instance, "device", lambda _, fix: device(Path("/dev/null"), fix))
    monkeypatch.setattr(instance, "allocator_service", partial(instance.allocator_service, ("true",)))
    monkeypatch.setattr(machine, "clock", partial(machine.clock, read=lambda: (0, 0)))
    image = tmp_path / "enclave.eif"
    image.write_bytes(forge())
    return image


def troubles(plan: Plan) -> list[Finding]:
    findings = list(examine(plan))
    bad = [item for item in findings if item.state in {State.FAILED, State.UNKNOWN}]
    assert ready(findings) == (not bad)
    assert all(item.fix for item in bad)
    return bad


@pytest.fixture
def assumed(moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Credential]:
    """A role that STS knows as the caller, and the local KMS as the host."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto)
    arn = "arn:aws:iam::123456789012:role/host"
    session = boto3.session.Session(region_name=REGION)
    given = session.client("sts").assume_role(RoleArn=arn, RoleSessionName="instance")["Credentials"]
    host = Credential(given["AccessKeyId"], given["SecretAccessKey"], arn)
    sign_as(monkeypatch, host)
    with KmsServer(store=tmp_path / "kms.sqlite", credentials=[host, ADMIN], roots=[]) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", server.url)
        yield host


def test_an_instance_with_everything_is_ready_and_one_wrong_value_undoes_it(
    eif: Path, assumed: Credential, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pcrs = measure_eif(eif)
    measured = Measurements(pcr0=pcrs["PCR0"], pcr1=pcrs["PCR1"], pcr2=pcrs["PCR2"])
    for prefix, image in (("good", measured), ("bad", OTHER)):
        put_package(bucket, prefix, packed_under(make_key(monkeypatch, image, host=assumed)))
    plan = Plan(
        platform=Platform.NITRO,
        eif=eif,
        measure=measure_eif,
        find_qemu=Path,
        memory_mib=1024,
        cpus=2,
        package="s3://models/good",
        owner=OWNER.public_key().public_bytes_raw(),
        key_arn=None,
        relay="tcp://127.0.0.1:0",
    )
    assert troubles(plan) == []
    for changed, check in (
        (replace(plan, memory_mib=1025), "enclave memory"),
        (replace(plan, cpus=3), "enclave CPUs"),
        (replace(plan, eif=None), "image"),
        (replace(plan, key_arn=KEY_ARN), "key"),
        (replace(plan, package="s3://models/bad"), "key"),
        (replace(plan, package="s3://models/other"), "package"),
        (replace(plan, owner=b"x" * 32), "package"),
        (replace(plan, relay="tcp://192.0.2.1:7001"), "relay"),
    ):
        assert check in {item.check for item in troubles(changed)}

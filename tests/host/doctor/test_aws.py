"""Checks of AWS: the local KMS for the key, an S3 and STS server, and recorded answers for what those never say.

Last, the whole list, on an instance laid out in a folder."""

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
from moto.server import ThreadedMotoServer
from samples import OWNER, make_manifest

from ephemeralml.attestation import Measurements
from ephemeralml.devcloud.kms import Credential, KmsServer
from ephemeralml.host.doctor import Plan, Platform, aws, examine, instance, machine, ready
from ephemeralml.host.doctor.finding import Finding, State
from ephemeralml.package.source import ARTIFACT_SUFFIX, MANIFEST_FILE

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
    client = aws.client("s3")
    client.create_bucket(Bucket="models")
    yield client
    client.close()


def sign_as(monkeypatch: pytest.MonkeyPatch, who: Credential) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", who.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", who.secret_access_key)


def key(key_arn: str | None, measurements: Measurements | None) -> Finding:
    return aws.model_key(key_arn, measurements, connect=lambda region: aws.client("kms", region=region))


def release(measurements: Measurements, **changes: Any) -> dict[str, Any]:
    """What a key policy says of one release."""
    names = {0: "ImageSha384", 1: "PCR1", 2: "PCR2"}
    registers = {
        f"kms:RecipientAttestation:{names[index]}": value.hex() for index, value in measurements.registers.items()
    }
    statement = {"Effect": "Allow", "Principal": {"AWS": HOST.principal_arn}, "Action": "kms:Decrypt", "Resource": "*"}
    return {**statement, "Condition": {"StringEqualsIgnoreCase": registers}, **changes}


def make_key(monkeypatch: pytest.MonkeyPatch, *statements: dict[str, Any], readable: bool = True) -> str:
    govern = {"Effect": "Allow", "Principal": {"AWS": ADMIN.principal_arn}, "Action": "kms:*", "Resource": "*"}
    reads = {**govern, "Principal": {"AWS": HOST.principal_arn}, "Action": ["kms:DescribeKey", "kms:GetKeyPolicy"]}
    sign_as(monkeypatch, ADMIN)
    policy = {"Version": "2012-10-17", "Statement": [govern, *([reads] if readable else []), *statements]}
    arn: str = aws.client("kms").create_key(Policy=json.dumps(policy))["KeyMetadata"]["Arn"]
    sign_as(monkeypatch, HOST)
    return arn


@pytest.mark.usefixtures("kms")
def test_a_key_that_is_released_to_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    both = make_key(monkeypatch, release(OTHER), release(IMAGE))
    assert key(both, IMAGE).state is State.OK
    assert IMAGE.pcr0.hex()[:16] in key(both, IMAGE).reason


@pytest.mark.usefixtures("kms")
def test_a_key_for_other_images(monkeypatch: pytest.MonkeyPatch) -> None:
    found = key(make_key(monkeypatch, release(OTHER)), IMAGE)
    assert found.state is State.FAILED
    assert "kms policy" in found.fix
    assert key(make_key(monkeypatch), IMAGE).state is State.FAILED


@pytest.mark.usefixtures("kms")
def test_what_could_not_be_looked_at_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert key(None, IMAGE).state is State.UNKNOWN
    assert key(make_key(monkeypatch, release(IMAGE)), None).state is State.UNKNOWN
    found = key(make_key(monkeypatch, release(IMAGE), readable=False), IMAGE)
    assert found.state is State.UNKNOWN
    assert "kms check" in found.fix


@pytest.mark.usefixtures("kms")
@pytest.mark.parametrize("arn", ["alias/model", "12345678", KEY_ARN.replace("key/", "alias/"), KEY_ARN])
def test_no_such_key(arn: str) -> None:
    assert key(arn, IMAGE).state is State.FAILED


@pytest.mark.parametrize("state", ["Disabled", "PendingDeletion", "PendingImport"])
def test_a_key_that_is_not_enabled(state: str) -> None:
    """Recorded, since the local KMS disables nothing."""
    client = aws.client("kms", region=REGION)
    with Stubber(client) as stubber:
        stubber.add_response("describe_key", {"KeyMetadata": {"KeyId": KEY_ARN, "KeyState": state}})
        found = aws.model_key(KEY_ARN, IMAGE, connect=lambda _: client)
    assert found.state is State.FAILED
    assert state in found.reason


@pytest.mark.parametrize(
    ("statement", "released"),
    [
        (release(IMAGE), True),
        (release(IMAGE, Action=["kms:Decrypt", "kms:DescribeKey"]), True),
        (release(OTHER), False),
        (release(IMAGE, Effect="Deny"), False),
        (release(IMAGE, Action="kms:Encrypt"), False),
        (release(IMAGE, Condition={}), False),
        (release(IMAGE, Condition={"StringEquals": {"kms:RecipientAttestation:PCR1": "02" * 48}}), False),
        (release(IMAGE, Condition={"StringEquals": {"kms:RecipientAttestation:ImageSha384": ["01" * 48]}}), True),
        (release(IMAGE, Condition={"StringEquals": {"kms:RecipientAttestation:PCR3": "01" * 48}}), False),
    ],
)
def test_which_statements_release_to_an_image(statement: dict[str, Any], *, released: bool) -> None:
    assert aws.releases_to(json.dumps({"Statement": [statement]}), IMAGE) is released


@pytest.mark.parametrize("policy", ["", "[]", "{}", '{"Statement": 1}', '{"Statement": [1]}', '{"Statement": [{}]}'])
def test_a_policy_that_cannot_be_read_releases_to_nobody(policy: str) -> None:
    assert not aws.releases_to(policy, IMAGE)


def test_the_role_and_the_time_of_aws(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto)
    found, server = aws.credentials(connect=lambda: aws.client("sts"))
    assert found.state is State.OK
    assert found.reason.startswith("arn:aws:")
    assert server is not None
    assert server.tzinfo is not None
    fast = machine.clock(server=server, now=server + timedelta(minutes=4), read=lambda: (0, 0))
    assert fast.state is State.FAILED


def test_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    found, server = aws.credentials(connect=lambda: aws.client("sts"))
    assert (found.state, server) == (State.FAILED, None)
    assert "no AWS credentials" in found.reason


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9", "does not answer"),
        ("AWS_ENDPOINT_URL_STS", "not a url", "could not be asked"),
        ("AWS_PROFILE", "nobody", "could not be asked"),
        ("AWS_DEFAULT_REGION", "no region", "could not be asked"),
    ],
)
def test_aws_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(name, value)
    found, _ = aws.credentials(connect=lambda: aws.client("sts"))
    assert found.state is State.FAILED
    assert said in found.reason
    assert found.fix


@pytest.mark.usefixtures("kms")
def test_credentials_that_are_not_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    found = key(KEY_ARN, IMAGE)
    assert found.state is State.FAILED
    assert "InvalidSignatureException" in found.reason


def test_a_package_in_a_bucket(bucket: Any) -> None:
    def package(location: str) -> Finding:
        return aws.package(location, connect=lambda: bucket)

    bucket.put_object(Bucket="models", Key=f"release/package/{MANIFEST_FILE}", Body=b"x" * 700)
    assert package("s3://models/release/package").state is State.OK
    assert package("s3://models/release/package/").state is State.OK
    for location in ("s3://models/release/other", "s3://models", "s3://nobodys/release/package"):
        found = package(location)
        assert found.state is State.FAILED
        assert "ephemeralml push" in found.fix
    bucket.put_object(Bucket="models", Key=f"large/{MANIFEST_FILE}", Body=b"x" * (32 * 1024 + 1))
    assert package("s3://models/large").state is State.FAILED


def test_a_bucket_that_this_role_may_not_read() -> None:
    client = aws.client("s3")
    with Stubber(client) as stubber:
        stubber.add_client_error("head_object", service_error_code="403", http_status_code=403)
        found = aws.package("s3://models/release/package", connect=lambda: client)
    assert found.state is State.FAILED
    assert "s3:GetObject" in found.fix


def test_a_package_in_a_folder(tmp_path: Path) -> None:
    def package() -> Finding:
        return aws.package(str(tmp_path), connect=boto3.session.Session)

    assert package().state is State.FAILED
    manifest = make_manifest()
    (tmp_path / MANIFEST_FILE).write_bytes(manifest.sign(OWNER))
    found = package()
    assert found.state is State.FAILED
    assert "incomplete" in found.reason
    for artifact in manifest.artifacts:
        (tmp_path / (artifact.name + ARTIFACT_SUFFIX)).write_bytes(b"")
    assert package().state is State.OK
    assert "version 3" in package().reason
    (tmp_path / MANIFEST_FILE).write_bytes(b"not one")
    assert package().state is State.FAILED


def test_no_package() -> None:
    assert aws.package(None, connect=boto3.session.Session).state is State.UNKNOWN


def test_the_date_of_a_server_that_has_none() -> None:
    client = aws.client("sts")
    for headers, expected in (
        ({}, None),
        ({"date": "soon"}, None),
        ({"date": "Thu, 01 Jan 2026 00:00:00 GMT"}, datetime(2026, 1, 1, tzinfo=UTC)),
    ):
        with Stubber(client) as stubber:
            answer = {"Arn": HOST.principal_arn, "ResponseMetadata": {"HTTPHeaders": headers}}
            stubber.add_response("get_caller_identity", answer)
            _, server = aws.credentials(connect=lambda: client)
        assert server == expected


@pytest.fixture
def machine_with_enclaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the checks of an instance look at, laid out below one folder; returns the image."""
    files = {
        "allocator.yaml": "---\nmemory_mib: 1024\ncpu_count: 2\n",
        "present": "0-3\n",
        "ne_cpus": "1,3\n",
        "hugepages/hugepages-2048kB/nr_hugepages": "512\n",
        "hugepages/hugepages-2048kB/free_hugepages": "512\n",
        "enclave.eif": ".eif",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    registers = {f"PCR{index}": value.hex() for index, value in IMAGE.registers.items()}
    answer = json.dumps({"Measurements": registers})
    stand_in = tmp_path / "bin" / "nitro-cli"
    stand_in.parent.mkdir()
    stand_in.write_text(f"#!/bin/sh\n[ $1 = describe-eif ] && echo '{answer}' || echo Nitro CLI 1.4.2\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(stand_in.parent), prepend=":")
    for check in (
        partial(instance.allocator_settings, path=tmp_path / "allocator.yaml"),
        partial(instance.cpu_pool, pool=tmp_path / "ne_cpus", present=tmp_path / "present"),
        partial(instance.huge_pages, folder=tmp_path / "hugepages"),
    ):
        monkeypatch.setattr(instance, check.func.__name__, check)
    device = instance.device
    monkeypatch.setattr(instance, "device", lambda _, fix: device(Path("/dev/null"), fix))
    monkeypatch.setattr(instance, "allocator_service", lambda: Finding.ok("allocator service", "active"))
    monkeypatch.setattr(machine, "clock", partial(machine.clock, read=lambda: (0, 0)))
    return tmp_path / "enclave.eif"


@pytest.mark.usefixtures("kms")
def test_an_instance_with_everything_is_ready_and_one_wrong_value_undoes_it(
    machine_with_enclaves: Path, moto: str, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto)
    bucket.put_object(Bucket="models", Key=f"release/package/{MANIFEST_FILE}", Body=b"x" * 700)
    plan = Plan(
        platform=Platform.NITRO,
        eif=machine_with_enclaves,
        memory_mib=1024,
        cpus=2,
        package="s3://models/release/package",
        key_arn=make_key(monkeypatch, release(IMAGE)),
        relay="tcp://127.0.0.1:0",
    )
    findings = list(examine(plan))
    assert [item for item in findings if item.state not in {State.OK, State.NOT_APPLICABLE}] == []
    assert ready(findings)
    for change, check in (
        ({"memory_mib": 1025}, "enclave memory"),
        ({"cpus": 3}, "enclave CPUs"),
        ({"eif": None}, "image"),
        ({"key_arn": make_key(monkeypatch, release(OTHER))}, "key"),
        ({"package": "s3://models/other"}, "package"),
    ):
        changed = list(examine(replace(plan, **change)))
        assert check in {item.check for item in changed if item.state in {State.FAILED, State.UNKNOWN}}
        assert not ready(changed)

"""The CloudFormation template: clean under cfn-lint, closed where it must be, and strict about its parameters."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cloudformation import ACCOUNT, TEMPLATE, Stack

from ephemeralml.host.doctor.finding import State
from ephemeralml.host.doctor.instance import allocator_settings


def test_cfn_lint_has_nothing_to_say() -> None:
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-c",
                "import sys; from cfnlint.runner import main; sys.exit(main())",
                "--include-checks",
                "I",
            ),
            *("--regions", "us-east-1", "eu-west-1", "--template", str(TEMPLATE)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("Pcr0", "0" * 96),
        ("Pcr0", "a0" * 32),
        ("Pcr1", ""),
        ("Pcr2", "g" * 96),
        ("NextPcr0", "0" * 96),
        ("NextPcr1", "b1"),
        ("KeyAdministratorArn", f"arn:aws:iam::{ACCOUNT}:root"),
        ("KeyAdministratorArn", "*"),
        ("ModelOwnerArn", ACCOUNT),
        ("ModelOwnerArn", f"arn:aws:iam::{ACCOUNT}:user/*"),
        ("RelayClients", "any"),
        ("ReleaseUrl", "http://example.org/x.tar.gz"),
        ("ReleaseUrl", "https://example.org/x.tar.gz'; reboot; '"),
        ("ReleaseSha256", "5e" * 31),
    ],
)
def test_bad_parameters_are_refused(stack: Stack, parameter: str, value: str) -> None:
    assert not stack.rejected(parameter, stack.parameters[parameter])
    assert stack.rejected(parameter, value)


@pytest.mark.parametrize("missing", ["NextPcr0", "NextPcr1", "NextPcr2"])
def test_half_a_release_is_refused(rolling: Stack, parameters: dict[str, str], missing: str) -> None:
    assert rolling.broken_rules() == []
    (said,) = Stack({**rolling.parameters, missing: ""}).broken_rules()
    assert missing in said


def test_who_may_reach_the_relay_is_never_a_default(stack: Stack) -> None:
    assert "Default" not in stack.template["Parameters"]["RelayClients"]
    (relay,) = stack.properties("HostAccess")["SecurityGroupIngress"]
    assert (relay["IpProtocol"], relay["FromPort"], relay["ToPort"]) == ("tcp", "7001", "7001")
    assert relay["CidrIp"] == "198.51.100.0/24"


def test_nothing_else_opens_a_port(stack: Stack) -> None:
    types = [resource["Type"] for resource in stack.template["Resources"].values()]
    assert "AWS::EC2::SecurityGroupIngress" not in types
    assert types.count("AWS::EC2::SecurityGroup") == 2
    (kms,) = stack.properties("KmsEndpointAccess")["SecurityGroupIngress"]
    assert kms.keys() & {"CidrIp", "CidrIpv6", "SourcePrefixListId"} == set()
    assert "KeyName" not in stack.properties("Host")


def test_the_instance_can_have_enclaves_and_keeps_its_credentials(stack: Stack) -> None:
    host = stack.properties("Host")
    assert host["EnclaveOptions"] == {"Enabled": True}
    assert host["MetadataOptions"]["HttpTokens"] == "required"
    assert host["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    assert all(disk["Ebs"]["Encrypted"] and disk["Ebs"]["VolumeType"] == "gp3" for disk in host["BlockDeviceMappings"])
    assert stack.template["Parameters"]["InstanceType"]["AllowedValues"] == ["c6i.xlarge", "m7i.xlarge"]


def test_the_hosts_role_reaches_one_key_and_one_prefix(stack: Stack) -> None:
    key, package, sessions = stack.properties("HostPolicy")["PolicyDocument"]["Statement"]
    assert set(key["Action"]) == {"kms:Decrypt", "kms:DescribeKey", "kms:GetKeyPolicy"}
    assert key["Resource"] == f"arn:aws:kms:us-east-1:{ACCOUNT}:key/12345678-1234-1234-1234-123456789abc"
    assert (package["Action"], package["Resource"]) == ("s3:GetObject", "arn:aws:s3:::ref-packages/release/*")
    # What a hacked host could do beyond that: speak for itself in Systems Manager, and read nothing there.
    assert {action.partition(":")[0] for action in sessions["Action"]} == {"ssm", "ssmmessages"}
    assert not any("Get" in action or "*" in action for action in sessions["Action"])
    assert "ManagedPolicyArns" not in stack.properties("HostRole")


def test_the_bucket_is_closed(stack: Stack) -> None:
    bucket = stack.properties("Packages")
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    assert bucket["OwnershipControls"] == {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    statements = {item["Sid"]: item for item in stack.properties("PackagesPolicy")["PolicyDocument"]["Statement"]}
    tls = statements["TlsOnly"]
    assert (tls["Effect"], tls["Principal"], tls["Action"]) == ("Deny", "*", "s3:*")
    assert tls["Resource"] == ["arn:aws:s3:::ref-packages", "arn:aws:s3:::ref-packages/*"]
    assert tls["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    nobody = statements["NobodyElse"]
    assert nobody["Effect"] == "Deny"
    assert nobody["Condition"] == {
        "ArnNotEquals": {
            "aws:PrincipalArn": [f"arn:aws:iam::{ACCOUNT}:user/model-owner", f"arn:aws:iam::{ACCOUNT}:role/HostRole"]
        }
    }
    allowed = [item["Principal"] for item in statements.values() if item["Effect"] == "Allow"]
    assert allowed == [{"AWS": f"arn:aws:iam::{ACCOUNT}:user/model-owner"}] * 2


def test_user_data_is_a_script_that_bash_can_read(stack: Stack, tmp_path: Path) -> None:
    script = tmp_path / "user-data"
    script.write_text(stack.properties("Host")["UserData"])
    assert script.read_text().startswith("#!/bin/bash\n")
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_user_data_sets_aside_is_what_doctor_asks_for(stack: Stack, tmp_path: Path) -> None:
    script: str = stack.properties("Host")["UserData"]
    written = script.split("allocator.yaml <<'EOF'\n")[1].split("EOF\n", maxsplit=1)[0]
    settings = tmp_path / "allocator.yaml"
    settings.write_text(written)
    assert allocator_settings(2, 3072, path=settings).state is State.OK
    assert allocator_settings(2, 3073, path=settings).state is State.FAILED


def test_user_data_sets_what_the_service_reads(stack: Stack) -> None:
    systemd = TEMPLATE.parents[1] / "systemd"
    script: str = stack.properties("Host")["UserData"]
    installed = re.findall(r"deploy/systemd/(\S+)", script)
    assert len(installed) == 3
    assert all((systemd / name).is_file() for name in installed)
    settings = re.findall(r"s\|\^(\w+)=", script)
    assert settings == ["PACKAGE", "MEMORY", "RELAY"]
    read = re.findall(r"^(\w+)=", (systemd / "host.env").read_text(), re.MULTILINE)
    assert set(settings) <= set(read)
    assert "/opt/ephemeralml/bin/ephemeralml" in (systemd / "ephemeralml-host.service").read_text()


def test_a_release_is_checked_before_anything_of_it_is_used(stack: Stack, tmp_path: Path) -> None:
    """The very lines of user data, on a file that is not the one promised."""
    script: str = stack.properties("Host")["UserData"]
    (check,) = (line for line in script.splitlines() if "sha256sum" in line)
    assert script.index(check) < script.index("tar --extract")
    (tmp_path / "release.tar.gz").write_bytes(b"another release")
    bash = shutil.which("bash")
    assert bash is not None
    command = f"set -euo pipefail\n{check.replace('/usr/src', str(tmp_path))}\necho used"
    done = subprocess.run([bash, "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "used" not in done.stdout.splitlines()

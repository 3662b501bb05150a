"""An enclave whose configuration names KMS's roots boots over its own TLS, with the processes a user starts."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from tls import KMS_NAME, Authority, Loop, forwarding

from ephemeralml.attestation import Measurements, Policy
from ephemeralml.client import Client
from ephemeralml.devcloud.kms import Credential, KmsServer
from ephemeralml.devcloud.measure import build_image, measure
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.devcloud.world import Process
from ephemeralml.enclave.configuration import Configuration
from ephemeralml.host.kms import KmsKeyProvider
from ephemeralml.inference import Encoder
from ephemeralml.package import generate_owner_key, pack
from ephemeralml.package.model import CONFIG_FILES, read_model_spec

ADMIN = Credential("AKIA" + "A" * 16, "admin-secret", "arn:aws:iam::000000000000:user/owner")
ROLE = Credential("ASIA" + "R" * 16, "role-secret", "arn:aws:iam::000000000000:role/host", "role-token")


def environment(credential: Credential, folder: Path) -> dict[str, str]:
    """Nobody else's credentials."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    mine |= {"AWS_ACCESS_KEY_ID": credential.access_key_id, "AWS_SECRET_ACCESS_KEY": credential.secret_access_key}
    mine |= {"AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"), "AWS_CONFIG_FILE": str(folder / "none")}
    return mine | ({"AWS_SESSION_TOKEN": credential.session_token} if credential.session_token else {})


def create_key(kms: KmsServer, pcr0: bytes) -> str:
    govern = {"Effect": "Allow", "Principal": {"AWS": ADMIN.principal_arn}, "Resource": "*"}
    release = {
        "Effect": "Allow",
        "Principal": {"AWS": ROLE.principal_arn},
        "Action": "kms:Decrypt",
        "Resource": "*",
        "Condition": {"StringEqualsIgnoreCase": {"kms:RecipientAttestation:ImageSha384": pcr0.hex()}},
    }
    statements = [{**govern, "Action": ["kms:PutKeyPolicy", "kms:GenerateDataKey"]}, release]
    client: Any = boto3.session.Session().client("kms", endpoint_url=kms.url, region_name=kms.region)
    arn: str = client.create_key(Policy=json.dumps({"Version": "2012-10-17", "Statement": statements}))["KeyMetadata"][
        "Arn"
    ]
    client.close()
    return arn


def test_boot_over_the_enclaves_own_tls(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, root = Authority(tmp_path), DevelopmentRoot.create()
    root.save(tmp_path / "dev-root")
    owner_key = generate_owner_key(tmp_path / "owner.key")
    settings = {
        "model_owner": owner_key.public_key().public_bytes_raw().hex(),
        "kms_roots": [base64.b64encode(authority.der).decode()],
    }
    (tmp_path / "enclave.json").write_text(json.dumps(settings))
    pcrs = measure(Configuration.load(tmp_path / "enclave.json").to_bytes(), image=build_image())
    asked: tuple[list[bytes], list[bytes]] = ([], [])
    with (
        KmsServer(store=tmp_path / "keys", credentials=[ADMIN, ROLE], roots=[root.der]) as kms,
        Loop() as loop,
    ):
        for name, value in environment(ADMIN, tmp_path).items():
            monkeypatch.setenv(name, value)
        files = {name: (tiny_model / name).read_bytes() for name in CONFIG_FILES if (tiny_model / name).is_file()}
        pack(
            tiny_model,
            tmp_path / "package",
            owner_key=owner_key,
            version=1,
            keys=KmsKeyProvider(create_key(kms, pcrs[0]), endpoint_url=kms.url),
            spec=read_model_spec(files),
            model_id="tiny",
        )
        port = loop.serve(
            forwarding(int(kms.url.rpartition(":")[2]), asked),
            # Not this machine's name: the host could not ask over this TLS itself.
            authority.server(KMS_NAME),
        )
        arguments = [
            *("host", "run", str(tmp_path / "package"), "--configuration", str(tmp_path / "enclave.json")),
            *("--root", str(tmp_path / "dev-root"), "--kms-endpoint", f"https://127.0.0.1:{port}", "--kms-tunnel"),
            *("--relay", "tcp://127.0.0.1:0", "--log-format", "json"),
        ]
        with Process(*arguments, log=tmp_path / "log", environment=environment(ROLE, tmp_path)) as host:
            ready = host.event("ready")
            policy = Policy(
                measurements=[Measurements(pcr0=pcrs[0], pcr1=pcrs[1], pcr2=pcrs[2])], extra_roots=[root.der]
            )
            with Client(ready["relay"], policy=policy) as client:
                answer = client.embed(["a text"])
    np.testing.assert_allclose(answer.vectors, Encoder.from_folder(tiny_model).encode(["a text"]), atol=1e-6)
    # One question, and it came from inside the enclave: the host's boto3 would have said who it is.
    assert b"".join(asked[0]).count(b"TrentService.Decrypt") == 1
    assert b"oto" not in b"".join(asked[0]).partition(b"\r\n\r\n")[0]

"""The real thing: a KMS, a host process, an enclave process under the local hypervisor, and their policy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from ephemeralml.attestation import Measurements, Policy
from ephemeralml.client import Client
from ephemeralml.devcloud.hypervisor import LocalEnclave
from ephemeralml.devcloud.kms import Credential, KmsServer
from ephemeralml.devcloud.measure import build_image, measure
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.enclave.configuration import Configuration
from ephemeralml.errors import EphemeralMLError
from ephemeralml.host.kms import KmsKeyProvider
from ephemeralml.inference import Encoder
from ephemeralml.inference.convert import convert_weights
from ephemeralml.package import DataKey, FolderSource, Manifest, generate_owner_key, pack
from ephemeralml.package.model import CONFIG_FILES, read_model_spec
from ephemeralml.session.transport import Address

ROLE = Credential("AKIDTEST", "s" * 40, "arn:aws:iam::000000000000:role/test")

# The host in a process of its own, as in production: run_host takes SIGTERM for itself.
_HOST = """
import asyncio, sys
from ephemeralml.host.run import HostPlan, run_host
from ephemeralml.package import FolderSource
from ephemeralml.session.transport import Address
services, enclave, package, kms = sys.argv[1:]
plan = HostPlan(relay=Address.parse("tcp://127.0.0.1:0"), services=Address.parse(services),
                enclave=Address.parse(enclave), kms_endpoint=kms)
def ready(address, stages):
    print(address, flush=True)
asyncio.run(run_host(plan, open_source=lambda: FolderSource(package), on_ready=ready,
                     on_restart=lambda error, seconds: None, on_kept=lambda error: None,
                     on_closed=lambda relayed: None, on_metrics=lambda address: None))
"""


@dataclass(kw_only=True)
class Deployment:
    """One running deployment. `restart` replaces the enclave under a relay that stays."""

    policy: Policy
    address: str
    encoder: Encoder
    owner: bytes
    package: Path
    enclave: LocalEnclave
    start: Callable[..., LocalEnclave]
    dek: bytes

    def client(self, *, timeout: float = 10, policy: Policy | None = None) -> Client:
        return Client(self.address, policy=policy or self.policy, timeout=timeout)

    def restart(self) -> None:
        self.enclave.close()
        self.enclave = self.start()
        self.await_serving()

    def await_serving(self) -> None:
        deadline = time.monotonic() + 20
        while True:
            try:
                with self.client():
                    return
            except EphemeralMLError:
                assert time.monotonic() < deadline, "the enclave does not serve"
                time.sleep(0.05)

    @property
    def enclave_rss(self) -> int:
        """Resident bytes of the enclave process."""
        pages = Path(f"/proc/{self.enclave.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


class _RememberingKeys(KmsKeyProvider):
    """KMS as it is, but the test knows what data key it gave."""

    dek = b""

    def generate_data_key(self, encryption_context: Mapping[str, str]) -> DataKey:
        key = super().generate_data_key(encryption_context)
        self.dek = key.plaintext
        return key


def _direct(address: Address) -> Address:
    return address


@contextmanager
def deployment(
    folder: Path,
    model: Path,
    limits: dict[str, int],
    *,
    tap: Callable[[Address], Address] = _direct,
    precision: str = "fp32",
    vsock: bool = False,
) -> Iterator[Deployment]:
    """`tap` may put something of the test's own on each of the host's connections.

    With `vsock` host and enclave meet on a hybrid vsock, as under Firecracker.
    """
    root = DevelopmentRoot.create()
    owner_key = generate_owner_key(folder / "owner.key")
    configuration = folder / "enclave.json"
    owner = owner_key.public_key().public_bytes_raw()
    configuration.write_text(json.dumps({"model_owner": owner.hex(), "limits": limits}))
    pcrs = measure(Configuration.load(configuration).to_bytes(), image=build_image())
    services, listen = Address("unix", path=f"{folder}/services"), Address("unix", path=f"{folder}/enclave")
    inside: dict[str, Any] = {"listen": listen, "host": tap(services)}
    if vsock:
        device = folder / "v"
        inside = {"listen": Address.parse("vsock://any:5000"), "host": Address.parse("vsock://2:5001"), "vsock": device}
        listen, services = (Address("vsock+unix", path=str(device), port=port) for port in (5000, 5001))
    environment = {"AWS_ACCESS_KEY_ID": ROLE.access_key_id, "AWS_SECRET_ACCESS_KEY": ROLE.secret_access_key}

    def start(at: Address | None = None) -> LocalEnclave:
        chosen = inside if at is None else inside | {"listen": at}
        return LocalEnclave(configuration=configuration, root=root, **chosen)

    with ExitStack() as stack:
        kms = stack.enter_context(KmsServer(store=folder / "kms.sqlite", credentials=[ROLE], roots=[root.der]))
        patched = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in environment.items():
            patched.setenv(name, value)
        files = {name: (model / name).read_bytes() for name in CONFIG_FILES if (model / name).is_file()}
        keys = _RememberingKeys(_create_key(kms, pcrs[0]), endpoint_url=kms.url)
        pack(
            model,
            folder / "package",
            owner_key=owner_key,
            version=1,
            keys=keys,
            spec=read_model_spec(files, precision=precision),
            model_id="tiny",
            replaced={
                "model.safetensors": convert_weights((model / "model.safetensors").read_bytes(), precision=precision)
            },
        )
        command = [sys.executable, "-c", _HOST, str(services), str(tap(listen)), str(folder / "package")]
        command.append(str(tap(Address.parse(kms.url.replace("http", "tcp")))).replace("tcp", "http"))
        host = stack.enter_context(_running(command, {**os.environ, **environment}))
        _await(lambda: Path(services.listening_path).exists())
        enclave = start()
        stack.callback(lambda: running.enclave.close())  # noqa: PLW0108 - `restart` replaces it
        running = Deployment(
            policy=Policy(
                measurements=[Measurements(pcr0=pcrs[0], pcr1=pcrs[1], pcr2=pcrs[2])],
                models=[_digest(folder / "package", owner)],
                extra_roots=[root.der],
            ),
            address="",
            encoder=Encoder.from_folder(model, precision=precision),
            owner=owner,
            package=folder / "package",
            enclave=enclave,
            start=start,
            dek=keys.dek,
        )
        assert host.stdout is not None
        relay = host.stdout.readline().strip()
        assert relay, "the host ended before the enclave was ready"
        running.address = str(tap(Address.parse(relay)))
        yield running


def _create_key(kms: KmsServer, pcr0: bytes) -> str:
    statements = [
        {
            "Effect": "Allow",
            "Principal": {"AWS": ROLE.principal_arn},
            "Action": ["kms:PutKeyPolicy", "kms:GenerateDataKey", "kms:DescribeKey"],
            "Resource": "*",
        },
        {
            "Effect": "Allow",
            "Principal": {"AWS": ROLE.principal_arn},
            "Action": "kms:Decrypt",
            "Resource": "*",
            "Condition": {"StringEqualsIgnoreCase": {"kms:RecipientAttestation:ImageSha384": pcr0.hex()}},
        },
    ]
    client: Any = boto3.session.Session().client("kms", endpoint_url=kms.url, region_name=kms.region)
    try:
        policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
        arn: str = client.create_key(Policy=policy)["KeyMetadata"]["Arn"]
    finally:
        client.close()
    return arn


def _digest(package: Path, owner: bytes) -> bytes:
    return Manifest.verify(FolderSource(package).manifest(), owner=owner).digest


@contextmanager
def _running(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Deployment]:
    """A deployment with the limits as they ship."""
    with deployment(tmp_path_factory.mktemp("e"), tiny_model, {}) as running:
        yield running


@pytest.fixture(scope="session")
def strict(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Deployment]:
    """A deployment whose limits are met within a second or two."""
    limits = {
        "handshake_seconds": 2,
        "idle_seconds": 1,
        "frame_seconds": 2,
        "requests_in_flight": 2,
        "texts_per_request": 4000,
        "request_bytes": 256 * 1024,
        "session_bytes": 768 * 1024,
        "total_bytes": 4 * 1024 * 1024,
    }
    with deployment(tmp_path_factory.mktemp("s"), tiny_model, limits) as running:
        yield running


@pytest.fixture
def deploy() -> Callable[..., AbstractContextManager[Deployment]]:
    """Makes a deployment of the test's own."""
    return deployment

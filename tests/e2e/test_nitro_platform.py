"""`host run --platform nitro` from the outside: a stand-in nitro-cli starts real enclave processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from nitro import PATIENCE, Instance, made_instance, until

from ephemeralml.attestation import Policy
from ephemeralml.client import Client
from ephemeralml.devcloud import world as devcloud
from ephemeralml.errors import docs_link

TEXTS = ["a text", "another"]


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """A KMS with a key for one enclave, that enclave's configuration, and a package under the key."""

    world: devcloud.World
    package: Path
    configuration: Path
    measurements: Path
    policy: Policy


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("world")
    world = devcloud.World(folder)
    with world.kms:
        environment = world.environment("owner")

        def done(*arguments: object) -> str:
            return devcloud.run(*map(str, arguments), environment=environment)

        done("keygen", folder / "owner.key")
        configuration, measurements, policy = (folder / f"{name}.json" for name in ("enclave", "measured", "policy"))
        owner = (folder / "owner.key.pub").read_text().strip()
        configuration.write_text(json.dumps({"model_owner": owner, "model_id": "tiny"}))
        measurements.write_text(done("enclave", "measure", configuration))
        key = done("kms", "create-key", "--measurements", measurements, "--endpoint", world.kms_url).strip()
        done(
            *("pack", tiny_model, folder / "package", "--key", folder / "owner.key", "--version", 1),
            *("--kms-key", key, "--kms-endpoint", world.kms_url, "--model-id", "tiny"),
        )
        root = world.root / "root.der"
        done("policy", "create", "--measurements", measurements, "--out", policy, "--root", root)
        yield Deployed(
            world=world,
            package=folder / "package",
            configuration=configuration,
            measurements=measurements,
            policy=Policy.load(policy),
        )


class Host:
    """A host process, and what it said."""

    def __init__(self, deployed: Deployed, instance: Instance, *options: object) -> None:
        self.out, self.err = (Path(tempfile.mkstemp(dir=instance.folder)[1]) for _ in range(2))
        arguments = {
            "--platform": "nitro",
            "--eif": instance.folder / "enclave.eif",
            "--memory": 512,
            "--measurements": deployed.measurements,
            "--connect": f"unix://{instance.folder}/enclave.sock",
            "--services": f"unix://{instance.folder}/services.sock",
            "--kms-endpoint": deployed.world.kms_url,
            "--relay": "tcp://127.0.0.1:0",
        }
        given = dict(zip(options[::2], options[1::2], strict=True))
        flat = [text for pair in (arguments | given).items() for text in pair if text is not True]
        command = [sys.executable, "-m", "ephemeralml.cli", "host", "run", str(deployed.package)]
        command += ["--log-format", "json"]
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [*command, *map(str, flat)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                env=deployed.world.environment("host") | instance.environment,
            )

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = self.out.read_text().splitlines(keepends=True)
        return [
            event
            for event in map(json.loads, (line for line in lines if line.endswith("\n")))
            if event["event"] == name
        ]

    def ready(self, times: int = 1) -> str:
        """The relay's address, once an enclave serves, or has again."""
        until(lambda: len(self.events("ready")) >= times or self.process.poll() is not None)
        assert self.process.poll() is None, self.err.read_text()
        relay: str = self.events("ready")[-1]["relay"]
        return relay

    def end(self, how: signal.Signals | None = None) -> int:
        if how is signal.SIGINT:
            # As at a terminal, where the whole process group gets it.
            os.killpg(self.process.pid, how)
        elif how is not None:
            self.process.send_signal(how)
        status = self.process.wait(PATIENCE)
        assert "Traceback" not in self.err.read_text()
        return status


Start = Callable[..., Host]


@pytest.fixture
def instance() -> Iterator[Instance]:
    with made_instance() as made:
        yield made


@pytest.fixture
def start(deployed: Deployed, instance: Instance) -> Iterator[Start]:
    hosts: list[Host] = []

    def call(*options: object) -> Host:
        if not (instance.folder / "enclave.eif").exists():
            image(deployed, instance, deployed.configuration)
        hosts.append(Host(deployed, instance, *options))
        return hosts[-1]

    yield call
    for host in hosts:
        if host.process.poll() is None:
            host.process.kill()
            host.process.wait()


def image(deployed: Deployed, instance: Instance, configuration: Path) -> None:
    """An image in which an enclave with that configuration is, and the measurements of the one that is expected."""
    instance.image(
        *(sys.executable, "-m", "ephemeralml.cli", "enclave", "run", configuration, "--root", deployed.world.root),
        *("--listen", f"unix://{instance.folder}/enclave.sock", "--host", f"unix://{instance.folder}/services.sock"),
        pcrs=json.loads(deployed.measurements.read_text()),
    )


def left(instance: Instance) -> list[str]:
    """Processes that belong to enclaves of this instance."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if (
                entry.name.isdigit()
                and os.fsencode(f"{instance.folder}/enclave.sock") in (entry / "cmdline").read_bytes()
            ):
                found.append(entry.name)
    return found


def test_an_enclave_that_crashes_or_loses_its_host_serves_again(
    deployed: Deployed, instance: Instance, start: Start
) -> None:
    host = start("--relay", f"tcp://127.0.0.1:{free_port()}")
    relay = host.ready()
    with Client(relay, policy=deployed.policy, timeout=PATIENCE) as client:
        before = client.embed(TEXTS).vectors
        # It crashes: the relay stays and says so, the client waits for the next one and attests again.
        instance.kill()
        until(lambda: host.events("enclave failed"))
        assert host.events("enclave failed")[0]["code"] == "enclave.ended"
        assert (client.embed(TEXTS).vectors == before).all()
        assert host.ready(2) == relay
        assert client.attestations == 2
        # The host is killed: its enclave stays, until the next host comes.
        [info] = instance.enclaves()
        host.process.kill()
        host.process.wait()
        assert instance.enclaves() == [info]
        host = start("--relay", relay)
        assert host.ready() == relay
        assert info["EnclaveID"] in host.out.read_text()
        assert info["EnclaveID"] not in {one["EnclaveID"] for one in instance.enclaves()}
        assert (client.embed(TEXTS).vectors == before).all()
        assert host.end(signal.SIGTERM) == 0
    assert instance.enclaves() == []
    until(lambda: not left(instance))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def starting(host: Host, instance: Instance) -> None:
    until(lambda: instance.calls("run-enclave"))


def booting(host: Host, instance: Instance) -> None:
    until(lambda: len(instance.calls("describe-enclaves")) == 2)


def serving(host: Host, instance: Instance) -> None:
    host.ready()


def pausing(host: Host, instance: Instance) -> None:
    until(lambda: len(host.events("enclave failed")) == 2)
    assert [event["starting_again_in_seconds"] for event in host.events("enclave failed")] == [1, 2]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("phase", [starting, booting, serving, pausing])
def test_a_stop_in_every_phase_leaves_nothing(
    instance: Instance, start: Start, phase: Callable[[Host, Instance], None], how: signal.Signals
) -> None:
    steps: dict[Any, list[dict[str, Any]]] = {starting: [{"seconds": 2}], pausing: [{"error": "E36"}] * 2}
    instance.script(run_enclave=steps.get(phase, []))
    host = start()
    phase(host, instance)
    assert host.end(how) == {signal.SIGINT: 130, signal.SIGTERM: 0}[how]
    assert instance.enclaves() == []
    assert len(instance.calls("terminate-enclave")) == (phase is not pausing)
    until(lambda: not left(instance))


def ended(host: Host, status: int, code: str) -> str:
    assert host.end() == status
    last = host.err.read_text().splitlines()[-1]
    assert last.startswith("ephemeralml: ")
    assert last.endswith(f" [{code}] {docs_link(code)}")
    return last


def test_an_enclave_that_kms_denies_the_key_is_not_started_again(
    deployed: Deployed, instance: Instance, start: Start, tmp_path: Path
) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps(json.loads(deployed.configuration.read_text()) | {"issuer": "another"}))
    image(deployed, instance, other)
    ended(start(), 1, "kms.access_denied")
    assert len(instance.calls("run-enclave")) == 1
    assert instance.enclaves() == []


def test_another_image_than_expected_is_not_run(instance: Instance, start: Start) -> None:
    instance.image("sleep", 600)
    assert "is not the image that was expected" in ended(start(), 1, "nitro.measurements")
    assert instance.enclaves() == []


def test_the_console_of_a_debug_enclave_is_shown_and_marked(
    deployed: Deployed, instance: Instance, start: Start
) -> None:
    expected = json.loads(deployed.measurements.read_text())
    instance.image("sh", "-c", "echo says the enclave; exec sleep 600", pcrs=expected)
    host = start("--debug", True)
    until(lambda: "enclave console: says the enclave\n" in host.err.read_text())
    assert host.end(signal.SIGTERM) == 0
    assert instance.enclaves() == []


def test_what_the_operator_has_to_mend_is_a_usage_error(instance: Instance, start: Start, deployed: Deployed) -> None:
    assert "--memory 1 " not in ended(start("--eif", instance.folder / "no.eif"), 2, "nitro.eif")
    large = instance.folder / "large.eif"
    with large.open("wb") as file:
        file.truncate(1 << 30)
    assert "--memory 4096" in ended(start("--eif", large), 2, "nitro.memory_requested")
    assert instance.calls("run-enclave") == []
    (instance.folder / "measured.json").write_text("{}")
    ended(start("--measurements", instance.folder / "measured.json"), 2, "policy.measurements")

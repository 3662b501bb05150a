"""`push`, `s3 run` and `host run s3://…` as a user types them: a vector from a package that lies in S3 alone."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ephemeralml.devcloud.world import Process, World, WorldError, command, run


class Place:
    """A KMS, an S3 with the same credentials, an owner and a package."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configuration = folder / "enclave.json"
        self.package = folder / "package"
        self.policy = folder / "policy.json"
        self.world = World(folder)
        credentials = folder / "kms" / "credentials"
        self.s3 = Process(
            *("s3", "run", str(folder / "s3"), "--bucket", "models", "--credentials", str(credentials), "--port", "0"),
            log=folder / "s3.log",
        )
        self.s3_url = self.s3.wait_for("serving on").split()[-1]
        self.owner = self.world.environment("owner")

    def prepare(self, model: Path) -> None:
        """All that is done once, before a package is pushed."""
        folder = self.folder
        run("keygen", str(folder / "owner.key"))
        owner = (folder / "owner.key.pub").read_text().strip()
        self.configuration.write_text(json.dumps({"model_owner": owner, "model_id": "tiny"}))
        measurements = folder / "measurements.json"
        measurements.write_text(run("enclave", "measure", str(self.configuration)))
        kms = self.world.kms_url
        create = ("kms", "create-key", "--measurements", str(measurements), "--endpoint", kms)
        key = run(*create, environment=self.owner).strip()
        run(
            *("pack", str(model), str(self.package), "--key", str(folder / "owner.key"), "--version", "1"),
            *("--kms-key", key, "--kms-endpoint", kms, "--model-id", "tiny"),
            environment=self.owner,
        )
        run(
            *("policy", "create", "--measurements", str(measurements), "--out", str(self.policy)),
            *("--root", str(self.world.root / "root.der")),
        )

    def push(self, profile: str = "owner") -> str:
        return run(
            *("push", str(self.package), "s3://models/tiny", "--s3-endpoint", self.s3_url),
            environment=self.world.environment(profile),
        )

    def host(self) -> Process:
        return Process(
            *("host", "run", "s3://models/tiny", "--s3-endpoint", self.s3_url, "--kms-endpoint", self.world.kms_url),
            *("--configuration", str(self.configuration), "--root", str(self.world.root)),
            *("--relay", "tcp://127.0.0.1:0", "--log-format", "json"),
            log=self.folder / "host.log",
            environment=self.world.environment("host"),
        )

    def stop(self) -> None:
        self.s3.stop()
        self.world.kms.stop()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("place"))
    try:
        place.prepare(tiny_model)
        yield place
    finally:
        place.stop()


def test_from_a_pushed_package_to_a_vector(place: Place) -> None:
    with pytest.raises(WorldError, match=r"s3\.access_denied"):
        place.push(profile="host")
    said = place.push()
    assert said.startswith("pushed tiny version 1 to s3://models/tiny: ")
    assert "nothing was uploaded" in place.push()
    # From now on there is only what lies in S3.
    shutil.move(place.package, place.folder / "away")
    with place.host() as host:
        relay = host.event("ready")["relay"]
        embedded = run("embed", "--address", relay, "--policy", str(place.policy), "a text")
    assert len(json.loads(embedded.splitlines()[0])["vector"]) == 32


def test_a_package_that_is_not_there_is_said_before_anything_starts(place: Place) -> None:
    with pytest.raises(WorldError, match=r"s3\.no_bucket"):
        run(
            *("host", "run", "s3://absent/tiny", "--s3-endpoint", place.s3_url),
            *("--configuration", str(place.configuration), "--root", str(place.world.root)),
            environment=place.world.environment("host"),
        )


@pytest.mark.parametrize(
    "arguments", [("push", "package", "s3://models/tiny"), ("host", "run", "s3://models/tiny", "--configuration", "x")]
)
def test_without_boto3_it_is_said(arguments: tuple[str, ...]) -> None:
    hidden = "import sys; sys.modules['boto3'] = None; from ephemeralml.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", hidden, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'ephemeralml[host]'" in done.stderr


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_push_ends_at_once_and_not_as_if_it_were_done(place: Place, stop: signal.Signals) -> None:
    # It waits for an S3 that does not answer.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        package = place.package if place.package.exists() else place.folder / "away"
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            command("push", str(package), "s3://models/tiny", "--s3-endpoint", url),
            env=place.owner | {"PYTHONUNBUFFERED": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        connection, _ = silent.accept()
        process.send_signal(stop)
        _, error = process.communicate(timeout=60)
        connection.close()
    assert process.returncode == 130
    assert "Traceback" not in error

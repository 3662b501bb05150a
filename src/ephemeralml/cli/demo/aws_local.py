"""`ephemeralml demo --aws-local`: as on AWS, package in S3 and enclave on a vsock, while one part after the other dies.

Everything dies in the middle of its work, by SIGKILL: what must follow is recovery or a clear refusal, never a hang and
never an enclave that serves half a model.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ephemeralml.cli.demo.attacks import DemoError
from ephemeralml.cli.demo.steps import SENTENCES, Prepared, embed, indented, prepare, step
from ephemeralml.client import Client
from ephemeralml.devcloud.tripwire import Tripwire
from ephemeralml.devcloud.world import Process, World, WorldError, run
from ephemeralml.errors import EphemeralMLError
from ephemeralml.receipts import verify_bundle
from ephemeralml.session.transport import Address

_PLACE = "s3://models/minilm"
_VSOCK_PORTS = 5000, 5001
# What a hang would be found out by.
_PATIENCE_SECONDS = 60
_CLIENTS = 4
_NUMBERS = itertools.count(1)


@dataclass(frozen=True, slots=True)
class _Cloud:
    """Where an instance finds its services: the real ones, or a wire to them that something happens to."""

    world: World
    made: Prepared
    s3_url: str

    def instance(self, *, s3: str = "", kms: str = "", relay: str = "tcp://127.0.0.1:0") -> _Instance:
        """A new parent instance: an enclave on a hybrid vsock, and its host."""
        return _Instance(self, s3=s3 or self.s3_url, kms=kms or self.world.kms_url, relay=relay)


class _Instance:
    """An enclave on a vsock and the host beside it, each a process. A context manager."""

    def __init__(self, cloud: _Cloud, *, s3: str, kms: str, relay: str) -> None:
        self._world = cloud.world
        self._options = ("--s3-endpoint", s3, "--kms-endpoint", kms, "--relay", relay, "--log-format", "json")
        # Its own: a host that was killed leaves its socket's file.
        self._vsock = cloud.world.folder / f"vsock-{next(_NUMBERS)}"
        listen, services = _VSOCK_PORTS
        self.host = self.start_host()
        # An enclave looks for its host at once.
        while not Path(f"{self._vsock}_{services}").is_socket() and self.host.alive:
            time.sleep(0.01)
        self.enclave = self._world.start(
            *("enclave", "run", str(cloud.made.configuration), "--root", str(self._world.root)),
            *("--vsock", str(self._vsock), "--listen", f"vsock://any:{listen}", "--host", f"vsock://2:{services}"),
            log="enclave.log",
        )

    def start_host(self) -> Process:
        listen, services = _VSOCK_PORTS
        return self._world.start(
            *("host", "run", _PLACE, *self._options),
            *(
                "--connect",
                f"vsock+unix://{self._vsock}:{listen}",
                "--services",
                f"vsock+unix://{self._vsock}:{services}",
            ),
            log="host.log",
            environment=self._world.environment("host"),
        )

    def __enter__(self) -> _Instance:
        return self

    def __exit__(self, *_: object) -> None:
        self.enclave.stop()
        self.host.stop()


def show_aws_local(world: World, model: Path) -> None:
    """The main job, then the deaths. Raises `DemoError` when one of them is not survived or refused as it should."""
    made = prepare(world, model)
    step("The package goes to S3: artifacts first, the signed manifest last")
    _, s3_url = world.start_s3()
    cloud = _Cloud(world, made, s3_url)
    owner = world.environment("owner")
    print("  " + run("push", str(made.package), _PLACE, "--s3-endpoint", s3_url, environment=owner).splitlines()[0])

    step("An enclave boots behind a vsock; its host streams the package from S3 and asks KMS for the key")
    before = time.perf_counter()
    with cloud.instance() as instance:
        ready = instance.host.event("ready")
        print(f"  ready after {time.perf_counter() - before:.1f} s: {ready['boot']}")
        bundle = embed(ready["relay"], made.policy)
        step("The bundle is verified offline")
        print(indented(str(verify_bundle(bundle, policy=made.policy))))

    step("kill -9, each in the middle of its work")
    _s3_dies(cloud)
    _host_dies_feeding(cloud)
    _kms_dies(cloud)
    _host_dies_relaying(cloud)


def _s3_dies(cloud: _Cloud) -> None:
    """S3 goes in the middle of the weights, and comes back."""
    world = cloud.world
    s3 = world.start_s3
    dying, url = s3()

    def die() -> None:
        dying.kill()
        s3(url)

    with _wire(url, die, after=20 << 20) as wire, cloud.instance(s3=_url(wire)) as instance:
        _same(cloud, instance.host.event("ready")["relay"])
        _tell("S3 with a fifth of the weights sent, then started again", wire, "the feed went on where it broke off")


def _host_dies_feeding(cloud: _Cloud) -> None:
    """The artifact feed goes in the middle of the weights."""
    victims: list[Process] = []
    with (
        _wire(cloud.s3_url, lambda: victims.pop().kill(), after=20 << 20) as wire,
        cloud.instance(s3=_url(wire)) as instance,
    ):
        victims.append(instance.host)
        _tell("the host with a fifth of the weights fed", wire, _end_of(instance.enclave))
    with cloud.instance() as again:
        _same(cloud, again.host.event("ready")["relay"])
    print("      a new start serves")


def _kms_dies(cloud: _Cloud) -> None:
    """KMS goes with its answer half sent."""
    world = cloud.world
    with _wire(world.kms_url, world.kms.kill, after=100) as wire, cloud.instance(kms=_url(wire)) as instance:
        _tell("KMS in the middle of its answer", wire, _end_of(instance.enclave))
    world.start_kms()
    with cloud.instance() as again:
        _same(cloud, again.host.event("ready")["relay"])
    print("      KMS back, a new start serves")


def _host_dies_relaying(cloud: _Cloud) -> None:
    """The relay goes under load; the enclave stays, and another host takes the dead one's place."""
    with cloud.instance() as first:
        relay = first.host.event("ready")["relay"]
    # Again, at that very address: clients must find the next host where they found the last.
    with cloud.instance(relay=relay) as instance:
        instance.host.event("ready")
        asked = _Asking(relay, cloud.made)
        with asked:
            asked.wait_for_more()
            instance.host.kill()
            instance.host = instance.start_host()
            asked.wait_for_more()
        print(
            f"  ✗ the host, its relay with {_CLIENTS} clients that ask without a pause\n      the enclave lived on; "
            f"clients attested again at the next host: {asked.answers} answers, {asked.errors} errors"
        )


class _Asking:
    """Clients that ask without a pause, each answer verified. A context manager; leaving it fails if one gave up."""

    def __init__(self, relay: str, made: Prepared) -> None:
        self.answers = self.errors = 0
        self._relay, self._made = relay, made
        self._stop = threading.Event()
        self._failed: list[EphemeralMLError] = []
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(_CLIENTS)]

    def __enter__(self) -> _Asking:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(_PATIENCE_SECONDS)
        if self._failed:
            raise DemoError(f"a client saw an error: {self._failed[0]}", code="demo.relay")

    def _ask(self) -> None:
        try:
            with Client(self._relay, policy=self._made.policy, timeout=_PATIENCE_SECONDS) as client:
                while not self._stop.is_set():
                    client.embed(SENTENCES[:1])
                    self.answers += 1
        except EphemeralMLError as error:
            self.errors += 1
            self._failed.append(error)

    def wait_for_more(self) -> None:
        """Until each client had a few more answers, or gave up."""
        wanted = self.answers + 5 * _CLIENTS
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self.answers < wanted and not self._failed:
            if time.monotonic() > deadline:
                raise DemoError("the clients hang", code="demo.hang")
            time.sleep(0.02)


def _wire(url: str, then: Callable[[], object], *, after: int) -> Tripwire:
    return Tripwire(Address.parse(url.replace("http://", "tcp://")), after=after, then=then)


def _url(wire: Tripwire) -> str:
    return str(wire.address).replace("tcp://", "http://")


def _same(cloud: _Cloud, relay: str) -> None:
    """The whole model serves: an answer is there and verified."""
    with Client(relay, policy=cloud.made.policy) as client:
        client.embed(SENTENCES[:1])


def _end_of(enclave: Process) -> str:
    """What an enclave that must not serve said last. Raises `DemoError` when it goes on."""
    try:
        said = enclave.words()
    except WorldError as error:
        raise DemoError("the enclave hangs, or serves half a model", code="demo.half") from error
    return next((line for line in said if line.startswith("enclave:")), "it ended without a word")


def _tell(what: str, wire: Tripwire, outcome: str) -> None:
    if not wire.tripped.is_set():
        raise DemoError(f"{what}: it was over before", code="demo.missed")
    print(f"  ✗ {what}\n      {outcome}", flush=True)

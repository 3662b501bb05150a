"""What an attacker with the host in hand would try, and who refuses it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from ephemeralml.attestation import Measurements, Policy
from ephemeralml.client import Client
from ephemeralml.devcloud.hostile_relay import Attack, HostileRelay, alter, replay
from ephemeralml.devcloud.world import World
from ephemeralml.errors import EphemeralMLError
from ephemeralml.receipts import Bundle, verify_bundle
from ephemeralml.session.transport import Address

_WEIGHTS = "model.safetensors.enc"


class DemoError(EphemeralMLError):
    """An attack was not refused."""


def show_refusals(world: World, *, relay: str, policy: Policy, bundle: bytes, configuration: Path) -> None:
    """Try each attack; raises `DemoError` when one is not refused."""
    good = world.folder / "package"
    _refused("a client that expects another PCR0", lambda: _wrong_pcr(relay, policy))
    _refused("an enclave with a changed configuration asks KMS", lambda: _changed_enclave(world, configuration))
    _refused("one bit of the encrypted weights flipped", lambda: _boot(world, _flipped(good), configuration))
    _refused(
        "the weights of another package", lambda: _boot(world, _swapped(good, world.folder / "second"), configuration)
    )
    _refused("a relay that replays a record", lambda: _through(replay, relay, policy))
    _refused("a relay that alters one bit", lambda: _through(alter, relay, policy))
    _refused("a receipt with one byte changed", lambda: _tampered(bundle, policy))


def _refused(what: str, attempt: Callable[[], object]) -> None:
    try:
        attempt()
    except EphemeralMLError as refusal:
        print(f"  ✗ {what}\n      {refusal}")
    else:
        raise DemoError(f"{what} was NOT refused", code="demo.not_refused")


def _wrong_pcr(relay: str, policy: Policy) -> None:
    known = policy.measurements[0]
    other = Measurements(pcr0=bytes((known.pcr0[0] ^ 1,)) + known.pcr0[1:], pcr1=known.pcr1, pcr2=known.pcr2)
    with Client(relay, policy=Policy(measurements=[other], extra_roots=policy.extra_roots)) as client:
        client.embed(["never sent"])


def _changed_enclave(world: World, configuration: Path) -> None:
    changed = world.folder / "changed.json"
    changed.write_text(json.dumps(json.loads(configuration.read_text()) | {"issuer": "somebody else"}))
    _boot(world, world.folder / "package", changed)


def _boot(world: World, package: Path, configuration: Path) -> None:
    with world.host(package, configuration) as host:
        host.event("ready")


def _flipped(good: Path) -> Path:
    bad = good.with_name("flipped")
    shutil.copytree(good, bad)
    weights = bytearray((bad / _WEIGHTS).read_bytes())
    weights[len(weights) // 2] ^= 1
    (bad / _WEIGHTS).write_bytes(weights)
    return bad


def _swapped(good: Path, other: Path) -> Path:
    bad = good.with_name("swapped")
    shutil.copytree(good, bad)
    shutil.copyfile(other / _WEIGHTS, bad / _WEIGHTS)
    return bad


def _through(attack: Attack, relay: str, policy: Policy) -> None:
    with HostileRelay(Address.parse(relay), attack) as hostile, Client(str(hostile.address), policy=policy) as client:
        # A replay is noticed when it arrives, which the answer to the record before may outrun: ask twice.
        client.embed(["sealed"])
        client.embed(["sealed"])


def _tampered(bundle: bytes, policy: Policy) -> None:
    whole = Bundle.from_bytes(bundle)
    receipt = bytearray(whole.receipt)
    receipt[-100] ^= 1
    verify_bundle(
        Bundle(receipt=bytes(receipt), document=whole.document, manifest=whole.manifest).to_bytes(), policy=policy
    )

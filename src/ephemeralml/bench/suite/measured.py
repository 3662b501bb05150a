"""What is measured inside the enclave, and on the way to it, by the enclave that measures itself."""

from __future__ import annotations

from typing import Final

from ephemeralml.bench.deployment import Measuring
from ephemeralml.bench.errors import BenchError
from ephemeralml.bench.suite.effort import Effort
from ephemeralml.bench.suite.places import Place
from ephemeralml.bench.suite.questions import Asked
from ephemeralml.bench.suite.record import Record
from ephemeralml.bench.suite.transport import SIZES, round_trips, stream_in, stream_out
from ephemeralml.bench.timing import median
from ephemeralml.session.transport import Address, connect

PATIENCE: Final = 600.0
_SHORT: Final = 30.0
_STREAMS: Final = 3


def ask(address: Address, *, patience: float = PATIENCE) -> Asked:
    """A connection to a process that measures."""
    return Asked(connect(address, timeout=patience))


def key_release(place: Place, asked: Asked, record: Record, effort: Effort) -> None:
    """Attestation document and KMS release; KMS's own count says whether it was asked.

    Raises `BenchError` when it was not, or when a request that must be refused is not.
    """
    place.kms_calls("Decrypt")
    answer = asked.ask("release", warmups=effort.warmups, iterations=effort.iterations)
    counted = place.kms_calls("Decrypt")
    if counted is None:
        record.absent["controls.kms_calls"] = "this KMS does not tell how often it was asked"
    elif counted != answer["asked"]:
        raise BenchError(
            f"KMS says that it released {counted} keys, the enclave that it asked for {answer['asked']}: the figures "
            "would not be of key releases",
            code="bench.kms",
        )
    refused = asked.ask("refused")["refused"]
    if not str(refused).startswith("kms."):
        raise BenchError(
            f"a key asked for under a wrong encryption context was not refused by KMS ({refused}): whoever answers "
            "is not KMS",
            code="bench.kms",
        )
    record.controls |= {"kms_calls": counted, "wrong_context": refused}
    for name in ("rsa_key", "attestation", "key_release"):
        record.add(f"stage/{name}", answer["ms"][name])


def load(asked: Asked, record: Record, effort: Effort) -> dict[str, str]:
    """The model by stage; returns the SHA-256 of each file that was loaded."""
    answer = asked.ask("load", rounds=effort.loads)
    for name, samples in answer["ms"].items():
        record.add(f"stage/{name}", samples)
    digests: dict[str, str] = answer["sha256"]
    return digests


def parts(asked: Asked, record: Record, text: str, effort: Effort) -> None:
    """A sealed request by part, and receipts issued."""
    answer = asked.ask("parts", texts=[text], warmups=effort.warmups, iterations=effort.iterations)
    for name, samples in answer["ms"].items():
        record.add(f"part/{name}", samples)
    record.figures["receipts issued per second"] = 1000 / median(record.samples["part/receipt"])


def transports(measuring: Measuring, record: Record, effort: Effort) -> None:
    """To the enclave itself, and through the relay."""
    for name, address in (("direct", measuring.address), ("relayed", measuring.relay)):
        transport(name, address, record, effort)


def transport(name: str, address: Address, record: Record, effort: Effort) -> None:
    """Round trips and streams over one connection."""
    with ask(address, patience=_SHORT) as asked:
        for label, size in SIZES.items():
            record.add(
                f"rtt/{name}/{label}", round_trips(asked, size, warmups=effort.warmups, iterations=effort.iterations)
            )
        for _ in range(_STREAMS):
            record.add(f"stream/{name}/in", [stream_in(asked, effort.stream_bytes)], "Mbit/s")
            record.add(f"stream/{name}/out", [stream_out(asked, effort.stream_bytes)], "Mbit/s")

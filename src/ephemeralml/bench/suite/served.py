"""What is measured of the enclave that serves, by its clients."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Final

from ephemeralml.attestation import verify_document
from ephemeralml.bench.deployment import Served
from ephemeralml.bench.load import ask_at_once, check_vectors
from ephemeralml.bench.peers import Vectors
from ephemeralml.bench.suite.effort import Effort
from ephemeralml.bench.suite.places import Place
from ephemeralml.bench.suite.questions import Asked
from ephemeralml.bench.suite.record import Record
from ephemeralml.bench.suite.turns import blocks, compare
from ephemeralml.bench.suite.work import timed
from ephemeralml.bench.timing import LEAD_SECONDS, median
from ephemeralml.client import Client
from ephemeralml.receipts import ReceiptPolicy, verify_receipt

_SESSIONS: Final = 20


def cold_starts(place: Place, record: Record, text: str, effort: Effort, say: Callable[[str], None]) -> None:
    """Launch to first verified answer, several times."""
    for number in range(effort.cold_starts):
        say(f"cold start {number + 1} of {effort.cold_starts}")
        start, _ = place.cold_start([text])
        record.add("cold_start/ready", [start.ready])
        record.add("cold_start/attested", [start.attested])
        record.add("cold_start/first_answer", [start.answered])
        for stage, value in start.stages.items():
            record.add(f"boot/{stage}", [value])


def sealed(
    served: Served,
    record: Record,
    texts: Sequence[str],
    *,
    bare: tuple[Asked, Record] | None,
    expected: Vectors | None,
    effort: Effort,
) -> None:
    """Sealed requests of one text, in turns with bare metal; what they add to it is their difference."""
    with served.client() as client:
        answered = client.embed(texts).vectors
        if expected is not None:
            check_vectors(answered, expected)
        record.quality = compare(answered, expected)
        for size in blocks(effort.iterations, effort.blocks):
            _lead(client, texts, effort.warmups)
            record.add(
                "end_to_end",
                [timed(client.embed, [texts[number % len(texts)]]) for number in range(size)],
            )
            if bare is not None:
                asked, beside = bare
                calls = [[text] for text in texts]
                answer = asked.ask("encode", calls=calls, warmups=effort.warmups, iterations=size, lead=LEAD_SECONDS)
                beside.add("beside", answer["ms"])


def sessions(served: Served, record: Record, text: str, effort: Effort) -> None:
    """Set-up of a session, verification of its document and of a receipt."""
    for _ in range(max(5, min(_SESSIONS, effort.iterations))):
        client = served.client()
        record.add("session/set_up", [timed(client.__enter__)])
        client.close()
    with served.client() as client:
        result = client.embed([text])
    document, policy = result.bundle.document, served.policy
    key = result.verdict.document.public_key
    assert key is not None, "a session's document has one"
    checks = ReceiptPolicy(expected_platform="nitro-pcr")
    for _ in range(effort.warmups + effort.iterations):
        record.add("session/document", [timed(lambda: verify_document(document, policy=policy, at=datetime.now(UTC)))])
        record.add(
            "receipts/verify", [timed(lambda: verify_receipt(result.bundle.receipt, public_key=key, policy=checks))]
        )
    record.figures["receipts verified per second"] = 1000 / median(record.samples["receipts/verify"])


def concurrency(
    served: Served, record: Record, short: Sequence[str], effort: Effort, say: Callable[[str], None]
) -> None:
    """1 to 64 sessions at once, one text a request."""
    with ExitStack() as stack:
        clients = [stack.enter_context(served.client()) for _ in range(max(effort.clients))]
        ask_at_once(clients[:8], short, seconds=effort.window_seconds / 4)
        for number in effort.clients:
            say(f"{number} clients")
            for _ in range(effort.windows):
                latencies, seconds = ask_at_once(clients[:number], short, seconds=effort.window_seconds)
                record.add(f"clients/{number}", latencies)
                record.add(f"clients_rate/{number}", [len(latencies) / seconds], "1/s")


def _lead(client: Client, texts: Sequence[str], warmups: int) -> None:
    until = time.perf_counter() + LEAD_SECONDS
    while time.perf_counter() < until:
        client.embed([texts[0]])
    for number in range(warmups):
        client.embed([texts[number % len(texts)]])

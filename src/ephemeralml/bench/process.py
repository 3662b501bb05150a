"""The enclave as a process: its memory, and how long it takes to start."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from ephemeralml.bench import texts
from ephemeralml.bench.case import Bench, Case
from ephemeralml.bench.deployment import ColdStart, Deployment
from ephemeralml.bench.latency import TOKENS
from ephemeralml.bench.load import MIXED_CLIENTS, MOST_TEXTS, Mixed, check_vectors
from ephemeralml.bench.timing import median

_OPEN = ("fetch_and_decrypt", "load")


def memory(bench: Bench) -> Case:
    """(g) Peak and present memory of the enclave's process."""
    requests = bench.effort.requests
    case = Case(
        f"Memory of the enclave's process, {requests} mixed requests",
        {
            "VmHWM, VmRSS": "of the enclave's process alone, /proc/PID/status, MB of 10^6 bytes: the highest so far, "
            "and now; shared libraries' pages counted in full. No relay, no client, no KMS in it",
            "after load": "when the enclave has said that it is ready",
            "after requests": f"after {requests} requests of 1 to {MOST_TEXTS} mixed texts by {MIXED_CLIENTS} clients",
        },
    )
    pool = texts.mixed_texts(bench.ours.count)
    for precision in bench.ours.encoders:
        deployment = bench.deployment if precision == "fp32" else bench.deployment_in(precision)
        loaded, worked = _memory_of(deployment, pool, requests)
        for name in ("VmHWM", "VmRSS"):
            case.figure(f"{precision} {name} after load, MB", loaded[name])
            case.figure(f"{precision} {name} after requests, MB", worked[name])
        case.figure(f"peak_mb_{precision}", worked["VmHWM"])
    for precision, reason in bench.ours.absent.items():
        case.no_figure(f"peak_mb_{precision}", reason)
    return case


def _memory_of(deployment: Deployment, pool: Sequence[str], requests: int) -> tuple[dict[str, float], dict[str, float]]:
    """Of an enclave started now: when it is ready, and when it has served."""
    with ExitStack() as stack:
        served = stack.enter_context(deployment.serve())
        loaded = served.memory()
        clients = [stack.enter_context(served.client()) for _ in range(MIXED_CLIENTS)]
        mixed = Mixed(pool)
        for thread in mixed.run(clients, requests=requests):
            thread.join()
        mixed.check()
        return loaded, served.memory()


def cold_start(bench: Bench) -> Case:
    """(h) From the spawn of the host's process to the first verified answer."""
    case = Case(
        "Cold start, several times",
        {
            "ready": "spawn of `ephemeralml host run` to its word that the enclave serves: interpreter, relay, "
            "enclave's process, measurement, key release by KMS, fetch, decryption, load. Files are in the page cache; "
            "the KMS runs",
            "attested": "the same and a client's session: evidence fetched and verified, keys agreed",
            "first answer": "the same and one text of 9 tokens embedded, its receipt verified",
            "stage …": "the enclave's own clock, whole milliseconds",
            "open_ms": f"sum of the medians of the stages {' and '.join(_OPEN)}",
        },
    )
    text = texts.exact_text(TOKENS, bench.ours.count)
    starts: list[ColdStart] = []
    deployment = bench.deployment
    for number in range(bench.effort.cold_starts):
        bench.say(f"cold start {number + 1} of {bench.effort.cold_starts}")
        start, answer = deployment.cold_start([text])
        check_vectors(answer.vectors, bench.ours.fp32.encode([text]))
        starts.append(start)
    case.add("ready", [start.ready for start in starts])
    case.add("attested", [start.attested for start in starts])
    case.add("first answer", [start.answered for start in starts])
    for stage in starts[0].stages:
        case.add(f"stage {stage}", [start.stages[stage] for start in starts])
    case.figure("first_answer_ms", median([start.answered for start in starts]))
    if all(stage in starts[0].stages for stage in _OPEN):
        case.figure("open_ms", sum(median([start.stages[stage] for start in starts]) for stage in _OPEN))
    else:
        case.no_figure("open_ms", f"the enclave did not tell its stages {' and '.join(_OPEN)}")
    return case

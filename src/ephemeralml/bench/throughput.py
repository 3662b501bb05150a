"""Many texts: a list in one call, many clients at once, and how much of the silicon is used."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np

from ephemeralml.bench import limits, texts
from ephemeralml.bench.case import Bench, Case
from ephemeralml.bench.latency import TOKENS
from ephemeralml.bench.load import ask_at_once, check_vectors
from ephemeralml.bench.ours import flops_per_token
from ephemeralml.bench.peers import INCUMBENT
from ephemeralml.bench.timing import Call, interleave, median, median_ratio, ratio_of_medians, significant
from ephemeralml.inference import Encoder

CLIENTS = 16
_BATCHES = (16, 32, 56, 64, 128, 256)
_ROWS, _LENGTH = 32, 128


def mixed_list(bench: Bench) -> Case:
    """(c) 128 texts of 10 to 120 tokens in one call."""
    case = Case(
        "128 mixed texts (10 to 120 tokens) in one call",
        {"every engine": "one call, from the list of Python strings to all its vectors, tokenizing included"},
    )
    mixed = texts.mixed_texts(bench.ours.count)
    calls: dict[str, Call] = {}
    for precision, encoder in bench.ours.encoders.items():
        calls[f"ours {precision}"] = partial(encoder.encode, mixed)
    for precision, reason in bench.ours.absent.items():
        case.no_series(f"ours {precision}", reason)
        case.no_figure(f"ours {precision} against {INCUMBENT}", reason)
    for name, embed in bench.peers.embed.items():
        calls[name] = partial(embed, mixed)
    for name, reason in bench.peers.absent.items():
        case.no_series(name, reason)
    # Whoever computes something else is not comparable, however fast.
    reference = np.asarray(calls.get(INCUMBENT, calls["ours fp32"])())
    cosines = {name: float((np.asarray(call()) * reference).sum(1).min()) for name, call in calls.items()}
    samples = interleave(calls, rounds=bench.effort.list_rounds, warmups=1)
    for name in samples:
        case.add(name, samples[name])
        case.figure(f"{name} texts/s", len(mixed) / median(samples[name]) * 1000)
    for precision in bench.ours.encoders:
        name = f"ours {precision}"
        for peer in bench.peers.embed:
            case.figure(f"{name} against {peer}", ratio_of_medians(samples[peer], samples[name]))
            case.figure(f"{name} against {peer}, paired", median_ratio(samples[peer], samples[name]))
        if INCUMBENT in bench.peers.absent:
            case.no_figure(f"{name} against {INCUMBENT}", bench.peers.absent[INCUMBENT])
    lengths = [bench.ours.count(text) for text in mixed]
    case.details |= {
        "texts_sha256": texts.digest(mixed),
        "tokens": sum(lengths),
        "shortest": min(lengths),
        "median": median(lengths),
        "longest": max(lengths),
        "least_cosine": {name: round(value, 6) for name, value in cosines.items()},
        "cosine_to": INCUMBENT if INCUMBENT in calls else "ours fp32",
    }
    return case


def many_clients(bench: Bench) -> Case:
    """(d) 16 clients with one short text per request against the engine's best batches of that length."""
    case = Case(
        "16 clients, one text of 9 tokens per request",
        {
            "deployment": "answers verified by 16 sessions (16 threads of one client process) in a window of time; "
            "client, relay and enclave are three processes on the same two CPUs",
            "engine": "Encoder.run in this process on token ids made beforehand, in the fastest size of batch",
        },
    )
    encoder, effort = bench.ours.fp32, bench.effort
    short = texts.exact_texts(max(_BATCHES), TOKENS, bench.ours.count)
    batch = _best_batch(encoder, short)
    ids = encoder.tokenize(short[:batch])
    served_rates: list[float] = []
    engine_rates: list[float] = []
    with ExitStack() as stack:
        served = stack.enter_context(bench.deployment.serve())
        clients = [stack.enter_context(served.client()) for _ in range(CLIENTS)]
        check_vectors(clients[0].embed(short).vectors, encoder.encode(short))
        ask_at_once(clients, short, seconds=effort.window_seconds / 4)
        for number in range(effort.windows):
            bench.say(f"window {number + 1} of {effort.windows}")
            latencies, seconds = ask_at_once(clients, short, seconds=effort.window_seconds)
            served_rates.append(len(latencies) / seconds)
            engine_rates.append(_rate(encoder, ids, seconds=effort.window_seconds / 2))
    case.add("deployment", served_rates, "texts/s")
    case.add("engine", engine_rates, "texts/s")
    case.figure("share_of_engine", ratio_of_medians(served_rates, engine_rates))
    case.figure("share_of_engine_paired", median_ratio(served_rates, engine_rates))
    case.details["engine_batch"] = batch
    return case


def arithmetic(bench: Bench) -> Case:
    """(f) Operations a second at 32 texts of 128 tokens as a share of what a large matrix product reaches here."""
    encoder = bench.ours.fp32
    length = min(_LENGTH, encoder.max_sequence_length)
    case = Case(
        f"Achieved arithmetic at {_ROWS} texts of {length} tokens",
        {
            "ours …": "Encoder.run on token ids made beforehand; operations counted are those of the encoder's "
            "matrices alone (config.json), attention scores and everything else left out",
            "limit": f"product of two {limits.SIZE} × {limits.SIZE} matrices, operands in memory, in the same rounds; "
            "the fastest library counts",
        },
    )
    rows = texts.exact_texts(_ROWS, length, bench.ours.count)
    bounds = limits.prepare()
    calls: dict[str, Call] = {f"limit: {name}": call for name, call in bounds.calls.items()}
    for precision, ours in bench.ours.encoders.items():
        ids = ours.tokenize(rows)
        calls[f"ours {precision}"] = partial(ours.run, ids)
    samples = interleave(calls, rounds=bench.effort.arithmetic_rounds)
    for name in samples:
        case.add(name, samples[name])
    for name, reason in bounds.absent.items():
        case.no_series(f"limit: {name}", reason)
    fastest = bounds.fastest({name: median(samples[f"limit: {name}"]) for name in bounds.calls})
    per_token = flops_per_token(bench.model)
    for precision in (*bench.ours.encoders, *bench.ours.absent):
        if precision in bench.ours.absent:
            case.no_series(f"ours {precision}", bench.ours.absent[precision])
            case.no_figure(f"share_{precision}", bench.ours.absent[precision])
            continue
        rate = per_token * _ROWS * length / median(samples[f"ours {precision}"]) / 1e6
        case.figure(f"ours {precision} GFLOP/s", rate)
        if precision in fastest:
            case.figure(f"share_{precision}", rate / fastest[precision][1])
        else:
            case.no_figure(f"share_{precision}", "no library here could measure the limit")
    for precision, (name, rate) in fastest.items():
        case.figure(f"limit {precision} GFLOP/s", rate)
        case.details[f"limit_{precision}_by"] = name
    case.details["mflop_per_token"] = significant(per_token / 1e6)
    return case


def _best_batch(encoder: Encoder, short: Sequence[str]) -> int:
    ids = encoder.tokenize(short)
    rates = {batch: _rate(encoder, ids[:batch], seconds=0.3) for batch in _BATCHES}
    return max(rates, key=rates.__getitem__)


def _rate(encoder: Encoder, ids: Sequence[Sequence[int]], *, seconds: float) -> float:
    """Texts a second."""
    encoder.run(ids)
    start = time.perf_counter()
    calls = 0
    while (elapsed := time.perf_counter() - start) < seconds:
        encoder.run(ids)
        calls += 1
    return calls * len(ids) / elapsed

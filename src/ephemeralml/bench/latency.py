"""One short text: the engine alone, through our encoder, through other libraries, and sealed through everything."""

from __future__ import annotations

from functools import partial

from ephemeralml.bench.case import Bench, Case
from ephemeralml.bench.load import check_vectors
from ephemeralml.bench.ours import bare_call
from ephemeralml.bench.peers import INCUMBENT
from ephemeralml.bench.texts import exact_text
from ephemeralml.bench.timing import Call, interleave, median_ratio, percentile, ratio_of_medians

TOKENS = 9
_ENGINE, _ENCODE = "engine call fp32", "Encoder.encode fp32"
_IN_PROCESS, _SEALED, _DIFFERENCE = "in process", "sealed", "difference"


def one_text(bench: Bench) -> Case:
    """(a) One text of 9 tokens, a call at a time."""
    case = Case(
        "One text of 9 tokens, in process",
        {
            _ENGINE: "the engine's run on ids and mask made beforehand, to the pooled vector; nothing else",
            "Encoder.encode …": "from a Python string to a float32 vector: tokenizing, padding, engine, copy",
            "peers": "from a list of one Python string to its vector, by each library's own call, tokenizing included",
        },
    )
    text = exact_text(TOKENS, bench.ours.count)
    calls: dict[str, Call] = {_ENGINE: bare_call(bench.ours.fp32, text)}
    for precision, encoder in bench.ours.encoders.items():
        calls[f"Encoder.encode {precision}"] = partial(encoder.encode, text)
    for precision, reason in bench.ours.absent.items():
        case.no_series(f"Encoder.encode {precision}", reason)
    for name, embed in bench.peers.embed.items():
        calls[name] = partial(embed, [text])
    for name, reason in bench.peers.absent.items():
        case.no_series(name, reason)
    samples = interleave(calls, rounds=bench.effort.latency_rounds)
    for name in samples:
        case.add(name, samples[name])
    case.figure("encode_over_engine", ratio_of_medians(samples[_ENCODE], samples[_ENGINE]))
    case.figure("encode_over_engine_paired", median_ratio(samples[_ENCODE], samples[_ENGINE]))
    for name in bench.peers.embed:
        case.figure(f"{name} over encode", ratio_of_medians(samples[name], samples[_ENCODE]))
        case.figure(f"{name} over encode, paired", median_ratio(samples[name], samples[_ENCODE]))
    if INCUMBENT in bench.peers.absent:
        case.no_figure(f"{INCUMBENT} over encode", bench.peers.absent[INCUMBENT])
    return case


def sealed(bench: Bench) -> Case:
    """(b) The same text through client, relay, enclave and receipt, beside in-process calls."""
    case = Case(
        "One text of 9 tokens, sealed through the whole deployment",
        {
            _IN_PROCESS: "Encoder.encode in this process, from a Python string to its vector",
            _SEALED: "Client.embed on a session that is up: seal, relay (TCP on loopback), enclave (Unix socket), "
            "open, tokenize, engine, receipt signed, answer sealed, opened, receipt verified. Client, relay and "
            "enclave are three processes on the same two CPUs",
            _DIFFERENCE: "sealed less in process, of the two calls of one round",
        },
    )
    encoder = bench.ours.fp32
    text = exact_text(TOKENS, bench.ours.count)
    with bench.deployment.serve() as served, served.client() as client:
        difference = check_vectors(client.embed([text]).vectors, encoder.encode([text]))
        samples = interleave(
            {_IN_PROCESS: lambda: encoder.encode(text), _SEALED: lambda: client.embed([text])},
            rounds=bench.effort.sealed_rounds,
            settle=0.005,
        )
    samples[_DIFFERENCE] = [b - a for a, b in zip(samples[_IN_PROCESS], samples[_SEALED], strict=True)]
    for name in samples:
        case.add(name, samples[name])
    for percent in (50, 99):
        inside, outside, paired = (percentile(samples[name], percent) for name in (_IN_PROCESS, _SEALED, _DIFFERENCE))
        case.figure(f"added_p{percent}_ms", outside - inside)
        case.figure(f"difference_p{percent}_ms", paired)
    case.details["largest_difference_of_vectors"] = difference
    return case

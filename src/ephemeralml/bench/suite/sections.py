"""The sections of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ephemeralml.bench.report import number
from ephemeralml.bench.suite.blocks import Block, Items, Paragraph, Table
from ephemeralml.bench.suite.cells import boundaries, cell, share, side_by_side, with_interval
from ephemeralml.bench.suite.compare import Result, added, median_of, overhead
from ephemeralml.bench.suite.cost import Price

INSIDE_TARGET: Final = 0.02
ADDED_TARGET: Final = 0.5
_NEIGHBOURS: Final = 0.05
_STATISTICS: Final = ("p50", "p95", "p99", "mean", "min", "max")


def headline(bare: Result | None, enclave: Result) -> list[Block]:
    """Machine, software, state of the source, and what would make the figures worth less."""
    machine = enclave["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in enclave["software"]["libraries"].items() if version)
    commit = (enclave["commit"] or "unknown")[:12] + (" with changes" if enclave["dirty"] else "")
    load = ", ".join(f"{value:.1f}" for value in machine["load_average_before"])
    blocks: list[Block] = [
        Paragraph(
            f"**{enclave['kind'].capitalize()}** on platform **{enclave['platform']}**, {enclave['timestamp'][:10]}: "
            f"{enclave['hardware']} ({' '.join(machine['cpu']['flags'])}), {machine['memory_mb'] / 1000:.0f} GB, Linux "
            f"{machine['kernel']}; Python {enclave['software']['python']}, {versions}; {enclave['model']}, "
            f"{enclave['model_params'] / 1e6:.1f} million parameters, {enclave['precision']}, {enclave['threads']} "
            f"threads; commit {commit}; load average before the run {load}; {enclave['seconds'] / 60:.0f} minutes."
        )
    ]
    if enclave["platform"] == "local":
        blocks.append(
            Paragraph(
                "On local the enclave is a process of this machine: real protocol, real cryptography, **not "
                "confidential**, and nothing of what a hypervisor and vsock take is in these figures."
            )
        )
    if enclave["platform"] == "vm":
        blocks.append(
            Paragraph(
                "On vm the enclave is the image that Nitro would start, its own kernel included, in a machine whose "
                "processor is software: the way through it is real, **times of computing are not** and say nothing of "
                "Nitro's; it is **not confidential**."
            )
        )
    if enclave["quick"]:
        blocks.append(Paragraph("**A quick run: too few samples to quote.**"))
    results = [enclave] if bare is None else [bare, enclave]
    loud = sorted({name for one in results for name, shares in one["neighbours"].items() if max(shares) > _NEIGHBOURS})
    if loud:
        blocks.append(
            Paragraph(
                f"**Other processes used more than {_NEIGHBOURS:.0%} of the CPUs beside {' and '.join(loud)}: do not "
                "quote.**"
            )
        )
    blocks.append(Paragraph("In brackets: the interval that holds the median with 95 % (bootstrap, fixed seed)."))
    return blocks


def targets(bare: Result | None, enclave: Result) -> list[Block]:
    """The two overheads that the project wants to keep, each with its boundary."""
    if bare is None:
        return [Paragraph("Overheads are not printed: bare metal was not measured in this run.")]
    inside = overhead(enclave.samples["inference"], bare.samples["inference"])
    sealed = added(enclave.samples["end_to_end"], bare.samples["beside"])
    head = ("overhead at p50", "boundary", "measured", "target", "")
    rows = [
        (
            "inside the enclave",
            "Encoder.encode in the two processes",
            share(inside),
            "≤ 2 %",
            _met(inside.value, INSIDE_TARGET),
        ),
        (
            "end to end",
            "Client.embed less Encoder.encode on bare metal, in turns",
            f"{with_interval(sealed)} ms",
            "≤ 0.5 ms",
            _met(sealed.value, ADDED_TARGET),
        ),
    ]
    return [Table(head, rows)]


def latency(bare: Result | None, enclave: Result) -> list[Block]:
    """One text: every statistic, side by side."""
    series = enclave["series"]
    head = ["one text of 9 tokens, ms", *(() if bare is None else ("bare metal",)), "enclave, inside"]
    head += [*(() if bare is None else ("overhead",)), "sealed, end to end"]
    rows = []
    for name in _STATISTICS:
        row = [name]
        value = series["inference"][name]
        if bare is not None:
            other = bare["series"]["inference"][name]
            row += [number(other), number(value), f"{value / other - 1:+.1%}"]
        else:
            row.append(number(value))
        rows.append([*row, number(series["end_to_end"][name])])
    return [Table(head, rows), boundaries(enclave, "inference", "end_to_end")]


def sweep(bare: Result | None, enclave: Result, prefix: str, what: str) -> list[Block]:
    """Medians over a length or a number."""
    head = [what, *(() if bare is None else ("bare metal, ms",)), "enclave, ms"]
    head += [*(() if bare is None else ("overhead",))]
    batch = prefix == "batch"
    head += ["texts/s in the enclave"] if batch else []
    rows = []
    for size in _sizes(enclave, prefix):
        name = f"{prefix}/{size}"
        row = [str(size)]
        if bare is not None:
            row.append(with_interval(median_of(bare.samples[name])))
        middle = median_of(enclave.samples[name])
        row.append(with_interval(middle))
        if bare is not None:
            row.append(share(overhead(enclave.samples[name], bare.samples[name])))
        rows.append([*row, number(size / middle.value * 1000)] if batch else row)
    return [Table(head, rows), boundaries(enclave, prefix)]


def load(bare: Result | None, enclave: Result) -> list[Block]:
    """Fetch, decrypt, deserialise, tokenizer."""
    names = ("fetch", "decrypt", "deserialise", "tokenizer")
    return [
        side_by_side("stage, ms", [f"stage/{name}" for name in names], bare, enclave),
        boundaries(enclave, *(f"stage/{name}" for name in names)),
        *([] if bare is None else [boundaries(bare, "stage/fetch", of="bare metal")]),
    ]


def cold_start(bare: Result | None, enclave: Result) -> list[Block]:
    """Launch to first verified answer, and the boot's own stages."""
    boot = sorted(name for name in enclave["series"] if name.startswith("boot/"))
    names = ("cold_start/ready", "cold_start/attested", "cold_start/first_answer", *boot)
    return [
        side_by_side("since the launch, ms", names, bare, enclave),
        boundaries(enclave, *names[:3], "boot"),
        *([] if bare is None else [boundaries(bare, "cold_start/first_answer", of="bare metal")]),
    ]


def release(enclave: Result) -> list[Block]:
    """Document, key release, and the proof that KMS was asked."""
    names = ("stage/rsa_key", "stage/attestation", "stage/key_release")
    return [side_by_side("ms", names, None, enclave), Items(controls_said(enclave)), boundaries(enclave, *names)]


def controls_said(enclave: Result) -> list[str]:
    """What must fail, and how it did."""
    controls = enclave["controls"]
    return [
        "KMS's own count of the keys it released while this was measured: " + str(controls["kms_calls"])
        if controls["kms_calls"] is not None
        else "KMS's own count: not told here",
        f"a key asked for under a wrong encryption context: refused, `{controls['wrong_context']}`",
        f"an enclave with one bit of its package changed: refused, `{controls['damaged_package']}`"
        if controls["damaged_package"] is not None
        else "an enclave with one bit of its package changed: not tried here",
    ]


def transport(bare: Result | None, enclave: Result) -> list[Block]:
    """Round trips and streams: to the enclave, through the relay, and TCP."""
    ways = {"to the enclave": (enclave, "direct"), "through the relay": (enclave, "relayed")}
    if bare is not None:
        ways["TCP on loopback"] = (bare, "tcp")
    trips = [
        [label, *(cell(result, f"rtt/{way}/{size}") for result, way in ways.values())]
        for size, label in (("64b", "64 B"), ("1kb", "1 KB"), ("64kb", "64 KB"), ("1mb", "1 MB"))
    ]
    streams = [
        [label, *(cell(result, f"stream/{way}/{end}") for result, way in ways.values())]
        for end, label in (("in", "into the enclave"), ("out", "out of the enclave"))
    ]
    said = [boundaries(enclave, "rtt/direct", "rtt/relayed", "stream/direct", "stream/relayed")]
    return [
        Table(("round trip, ms", *ways), trips),
        Table(("one stream, Mbit/s", *ways), streams),
        *said,
        *([] if bare is None else [boundaries(bare, "rtt/tcp", "stream/tcp", of="TCP")]),
    ]


def memory(bare: Result | None, enclave: Result) -> list[Block]:
    """Peak, present, model, allocation."""
    results = {"enclave": enclave} if bare is None else {"bare metal": bare, "enclave": enclave}
    names = {
        "peak_rss_mb": "peak RSS", "rss_mb": "RSS now", "model_size_mb": "model's files",
        "enclave_allocation_mb": "memory set aside for the enclave",
    }  # fmt: skip
    rows = [[words, *(number(one["memory"][name]) for one in results.values())] for name, words in names.items()]
    sources = [f"{name}: {one['memory']['peak_rss_source']}" for name, one in results.items()]
    return [Table(("MB (10^6 bytes)", *results), rows), Items(sources)]


def parts(enclave: Result) -> list[Block]:
    """Each part alone, and what is left of the whole."""
    names = ("open", "tokenise", "queue", "model", "receipt", "seal")
    rows = [[name, cell(enclave, f"part/{name}")] for name in names]
    known = sum(enclave.median(f"part/{name}") or 0.0 for name in names) + (enclave.median("receipts/verify") or 0.0)
    rows.append(["receipt verified by the client", cell(enclave, "receipts/verify")])
    rest = (enclave.median("end_to_end") or 0.0) - known
    rows.append(["the rest: sockets, relay, event loops, and a CPU that three processes share", number(rest)])
    rows.append(["end to end", cell(enclave, "end_to_end")])
    return [Table(("part of one sealed text, ms", "median"), rows), boundaries(enclave, "part", "end_to_end")]


def clients(enclave: Result) -> list[Block]:
    """1 to 64 sessions."""
    rows = [
        [
            str(count),
            cell(enclave, f"clients_rate/{count}"),
            *(number(enclave["series"][f"clients/{count}"][name]) for name in ("p50", "p95", "p99")),
        ]
        for count in _sizes(enclave, "clients")
    ]
    head = ("clients", "answers/s", "p50, ms", "p95, ms", "p99, ms")
    return [Table(head, rows), boundaries(enclave, "clients", "clients_rate")]


def crypto(enclave: Result) -> list[Block]:
    """Set-up, verification, receipts."""
    names = ("session/set_up", "session/document", "receipts/verify", "part/receipt")
    table = side_by_side("ms", names, None, enclave)
    rates = [f"{name}: {number(value)}" for name, value in enclave["figures"].items() if name.startswith("receipts")]
    return [table, Items(rates), boundaries(enclave, *names[:3])]


def quality(bare: Result | None, enclave: Result) -> list[Block]:
    """Whether both compute the same."""
    results = {"enclave": enclave} if bare is None else {"bare metal": bare, "enclave": enclave}
    rows = [
        [
            name,
            f"`{one['quality']['vectors_sha256'][:16]}…`",
            "–" if one["quality"]["least_cosine"] is None else f"{one['quality']['least_cosine']:.9f}",
            "–" if one["quality"]["largest_difference"] is None else f"{one['quality']['largest_difference']:.2g}",
        ]
        for name, one in results.items()
    ]
    words = "The run ends without a result when a vector differs by more than 1e-5 from bare metal's."
    return [Table(("vectors", "SHA-256", "least cosine", "largest difference"), rows), Paragraph(words)]


def cost(enclave: Result, currency: str, prices: Sequence[Price]) -> list[Block]:
    """A million texts at the best rate that was measured."""
    best = max(_sizes(enclave, "clients"), key=lambda count: enclave.median(f"clients_rate/{count}") or 0.0)
    rate = enclave.median(f"clients_rate/{best}") or 0.0
    rows = [[price.name, number(price.per_hour), number(price.per_million(rate)), price.source] for price in prices]
    words = (
        f"If such an instance gave the {number(rate)} verified answers a second of one text of 9 tokens that this "
        f"machine gave {best} clients: arithmetic, not a measurement on that instance. `--prices` takes another table."
    )
    return [
        Table(("instance", f"{currency} an hour", f"{currency} for a million texts", "price from"), rows),
        Paragraph(words),
    ]


def method(bare: Result | None, enclave: Result) -> list[Block]:
    """In words."""
    inference = enclave["inference"]
    said = [
        "To repeat it: `make bench` (a short look) or `make bench-full`; `scripts/run_benchmark.sh --platform nitro …` "
        "on an instance, `scripts/ssm_benchmark.sh --instance …` from elsewhere; `scripts/benchmark_report.py` makes "
        "the page.",
        "`ephemeralml bench run` starts a KMS, packs the model, and runs host, enclave and client as processes of "
        "their own. Bare metal is a process started with the same interpreter, flags, environment and code, over the "
        "same files: each file's SHA-256 is the one in the package's signed manifest.",
        "Inside the enclave an image of its own measures: it boots as the one that serves does, then it "
        "answers the benchmark instead of clients. Its measurements are others, and the key's policy names both.",
        f"{inference['num_iterations']} timed calls after {inference['num_warmups']} discarded ones, monotonic clock. "
        "Bare metal and enclave take turns in blocks; untimed calls for 40 ms before each block, since after a rest "
        "the first calls take twice as long. Percentiles are samples that were seen (nearest rank).",
        "No result is written when KMS's count differs from the enclave's, a wrong encryption context is not refused, "
        "an enclave boots from a damaged package, a file's digest is not the manifest's, a round trip brings other "
        "bytes back, vectors differ by more than 1e-5, or a stage has no sample.",
        "Raw samples lie beside the results; both keep to `src/ephemeralml/bench/suite/suite.schema.json`.",
    ]
    absent = {
        reason: sorted(name for name, why in enclave["absent"].items() if why == reason)
        for reason in enclave["absent"].values()
    }
    said += [f"not measured: {', '.join(names)}: {reason}" for reason, names in absent.items()]
    if bare is None and "bare metal" not in enclave["absent"]:
        said.append("not measured: bare metal: run with --skip-baseline")
    return [Items(said)]


def _met(value: float, bound: float) -> str:
    return "met" if value <= bound else "missed"


def _sizes(result: Result, prefix: str) -> list[int]:
    names = (name for name in result["series"] if name.startswith(f"{prefix}/"))
    return sorted(int(name.removeprefix(f"{prefix}/")) for name in names)

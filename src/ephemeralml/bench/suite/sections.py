"""The sections of the page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ephemeralml.bench.report import number
from ephemeralml.bench.suite.blocks import Block, Heading, Items, Paragraph, Table
from ephemeralml.bench.suite.compare import Interval, Result, added, median_of, overhead
from ephemeralml.bench.suite.cost import Price
from ephemeralml.bench.suite.projection import SOURCE, project

PUBLISHED_FILE: Final = Path(__file__).with_name("published.json")
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
            _share(inside),
            "≤ 2 %",
            _met(inside.value, 0.02),
        ),
        (
            "end to end",
            "Client.embed less Encoder.encode on bare metal, in turns",
            f"{_with(sealed)} ms",
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
    return [Table(head, rows), _boundaries(enclave, "inference", "end_to_end")]


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
            row.append(_with(median_of(bare.samples[name])))
        middle = median_of(enclave.samples[name])
        row.append(_with(middle))
        if bare is not None:
            row.append(_share(overhead(enclave.samples[name], bare.samples[name])))
        rows.append([*row, number(size / middle.value * 1000)] if batch else row)
    return [Table(head, rows), _boundaries(enclave, prefix)]


def load(bare: Result | None, enclave: Result) -> list[Block]:
    """Fetch, decrypt, deserialise, tokenizer."""
    names = ("fetch", "decrypt", "deserialise", "tokenizer")
    return [
        _side_by_side("stage, ms", [f"stage/{name}" for name in names], bare, enclave),
        _boundaries(enclave, *(f"stage/{name}" for name in names)),
        *([] if bare is None else [_boundaries(bare, "stage/fetch", of="bare metal")]),
    ]


def cold_start(bare: Result | None, enclave: Result) -> list[Block]:
    """Launch to first verified answer, and the boot's own stages."""
    boot = sorted(name for name in enclave["series"] if name.startswith("boot/"))
    names = ("cold_start/ready", "cold_start/attested", "cold_start/first_answer", *boot)
    return [
        _side_by_side("since the launch, ms", names, bare, enclave),
        _boundaries(enclave, *names[:3], "boot"),
        *([] if bare is None else [_boundaries(bare, "cold_start/first_answer", of="bare metal")]),
    ]


def release(enclave: Result) -> list[Block]:
    """Document, key release, and the proof that KMS was asked."""
    names = ("stage/rsa_key", "stage/attestation", "stage/key_release")
    return [_side_by_side("ms", names, None, enclave), Items(_controls(enclave)), _boundaries(enclave, *names)]


def _controls(enclave: Result) -> list[str]:
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
        [label, *(_cell(result, f"rtt/{way}/{size}") for result, way in ways.values())]
        for size, label in (("64b", "64 B"), ("1kb", "1 KB"), ("64kb", "64 KB"), ("1mb", "1 MB"))
    ]
    streams = [
        [label, *(_cell(result, f"stream/{way}/{end}") for result, way in ways.values())]
        for end, label in (("in", "into the enclave"), ("out", "out of the enclave"))
    ]
    said = [_boundaries(enclave, "rtt/direct", "rtt/relayed", "stream/direct", "stream/relayed")]
    return [
        Table(("round trip, ms", *ways), trips),
        Table(("one stream, Mbit/s", *ways), streams),
        *said,
        *([] if bare is None else [_boundaries(bare, "rtt/tcp", "stream/tcp", of="TCP")]),
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
    rows = [[name, _cell(enclave, f"part/{name}")] for name in names]
    known = sum(enclave.median(f"part/{name}") or 0.0 for name in names) + (enclave.median("receipts/verify") or 0.0)
    rows.append(["receipt verified by the client", _cell(enclave, "receipts/verify")])
    rest = (enclave.median("end_to_end") or 0.0) - known
    rows.append(["the rest: sockets, relay, event loops, and a CPU that three processes share", number(rest)])
    rows.append(["end to end", _cell(enclave, "end_to_end")])
    return [Table(("part of one sealed text, ms", "median"), rows), _boundaries(enclave, "part", "end_to_end")]


def clients(enclave: Result) -> list[Block]:
    """1 to 64 sessions."""
    rows = [
        [
            str(count),
            _cell(enclave, f"clients_rate/{count}"),
            *(number(enclave["series"][f"clients/{count}"][name]) for name in ("p50", "p95", "p99")),
        ]
        for count in _sizes(enclave, "clients")
    ]
    head = ("clients", "answers/s", "p50, ms", "p95, ms", "p99, ms")
    return [Table(head, rows), _boundaries(enclave, "clients", "clients_rate")]


def crypto(enclave: Result) -> list[Block]:
    """Set-up, verification, receipts."""
    names = ("session/set_up", "session/document", "receipts/verify", "part/receipt")
    table = _side_by_side("ms", names, None, enclave)
    rates = [f"{name}: {number(value)}" for name, value in enclave["figures"].items() if name.startswith("receipts")]
    return [table, Items(rates), _boundaries(enclave, *names[:3])]


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


def virtual(more: Sequence[Result]) -> list[Block]:
    """The image's own run in a virtual machine: what the local platform leaves out, on a processor of software."""
    ran = [one for one in more if one["platform"] == "vm"]
    if not ran:
        return []
    one = ran[0]
    boot = sorted(name for name in one["series"] if name.startswith("boot/"))
    starts = ("cold_start/ready", "cold_start/attested", "cold_start/first_answer", *boot)
    difference = one["quality"]["largest_difference"]
    return [
        Heading(2, "The image in a virtual machine"),
        *headline(None, one),
        _side_by_side("ms", [*starts, "stage/attestation", "stage/key_release", "inference", "end_to_end"], None, one),
        *transport(None, one),
        Items(
            [
                f"vectors: {difference:.2g} from this machine's at most",
                f"peak RSS of the enclave's process {number(one['memory']['peak_rss_mb'])} MB, of "
                f"{number(one['memory']['enclave_allocation_mb'])} MB that its machine has",
                *_controls(one),
                *(f"not measured: {name}: {why}" for name, why in one["absent"].items()),
            ]
        ),
    ]


def nitro(enclave: Result, more: Sequence[Result]) -> list[Block]:
    """Measured there, or what to expect."""
    there = [one for one in (enclave, *more) if one["platform"] == "nitro" and one["kind"] == "measured"]
    if there:
        names = ("inference", "end_to_end", "stage/attestation", "stage/key_release", "stage/fetch", "rtt/direct/64b",
                 "rtt/direct/1kb", "rtt/direct/64kb", "rtt/direct/1mb", "cold_start/first_answer")  # fmt: skip
        rows = [[name, *(_cell(one, name) for one in there)] for name in names]
        return [Table(("measured on Nitro, ms", *(one["hardware"] for one in there)), rows)]
    if enclave["platform"] != "local":
        return [Paragraph("Not projected: only a run on the local platform is.")]
    rows = [
        [row.what, row.unit, number(row.local), "" if row.nitro is None else number(row.nitro), row.how]
        for row in project(enclave)
    ]
    words = (
        "**Projected, not measured.** Nobody has run this on Nitro yet; a result of `--platform nitro` takes this "
        f"table's place. vsock's figures: {SOURCE}."
    )
    return [Paragraph(words), Table(("figure", "unit", "local, measured", "Nitro, projected", "how"), rows)]


def published(bare: Result | None, enclave: Result) -> list[Block]:
    """Others' words about themselves, beside ours; what nobody published stays empty."""
    table: dict[str, Any] = json.loads(PUBLISHED_FILE.read_bytes())
    inside = "" if bare is None else _share(overhead(enclave.samples["inference"], bare.samples["inference"]))
    ours = [
        f"**this run** ({enclave['platform']}, {enclave['kind']})",
        inside,
        f"{number(enclave.median('end_to_end'))} ms p50 end to end, {number(enclave.median('inference'))} ms inside",
        f"{number((enclave.median('cold_start/first_answer') or 0) / 1000)} s",
        f"{number(enclave['memory']['peak_rss_mb'])} MB peak RSS",
        "",
        "this page",
    ]
    rows = [ours]
    for row in table["rows"]:
        link = f"[{row['source']}]({row['url']})" if row["url"] else ""
        origin = f"{link}, {row['date']}: {row['note']}" if link else f"{row['date']}: {row['note']}"
        rows.append([row["name"], *(row[column] or "" for column in table["columns"]), origin])
    head = ("system", "inference overhead", "latency", "start", "memory", "USD for a million", "source")
    words = (
        "Different models, machines and boundaries: no two rows are a race. Empty: nobody published it, or we did not "
        "find it."
    )
    return [Table(head, rows), Paragraph(words)]


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


def _side_by_side(what: str, names: Sequence[str], bare: Result | None, enclave: Result) -> Table:
    results = {"enclave": enclave} if bare is None else {"bare metal": bare, "enclave": enclave}
    rows = [[_label(name), *(_cell(one, name) for one in results.values())] for name in names]
    return Table((what, *results), rows)


def _label(name: str) -> str:
    first, _, rest = name.partition("/")
    return (f"boot: {rest}" if first == "boot" else rest or first).replace("_", " ")


def _cell(result: Result, name: str) -> str:
    samples = result.samples.get(name)
    return _with(median_of(samples)) if samples else "–"


def _with(interval: Interval) -> str:
    return f"{number(interval.value)} [{number(interval.low)}, {number(interval.high)}]"


def _share(interval: Interval) -> str:
    return f"{interval.value:+.1%} [{interval.low:+.1%}, {interval.high:+.1%}]"


def _met(value: float, bound: float) -> str:
    return "met" if value <= bound else "missed"


def _sizes(result: Result, prefix: str) -> list[int]:
    names = (name for name in result["series"] if name.startswith(f"{prefix}/"))
    return sorted(int(name.removeprefix(f"{prefix}/")) for name in names)


def _boundaries(result: Result, *names: str, of: str = "") -> Items:
    said: Mapping[str, str] = result["boundary"]
    words: Callable[[str], str] = lambda name: f"{of + ': ' if of else ''}*{name}*: {said[name]}"  # noqa: E731
    return Items([words(name) for name in names if name in said])

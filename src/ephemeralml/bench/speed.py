"""`ephemeralml bench speed`: the cases in their order, and the result file."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from hashlib import file_digest
from pathlib import Path
from typing import Any, Final

from ephemeralml.bench import figure, from_s3, latency, machine, process, scaling, throughput
from ephemeralml.bench.case import Bench, Case, Effort
from ephemeralml.bench.ours import model_name
from ephemeralml.bench.results import SPEED, VERSIONS
from ephemeralml.bench.soak import soak
from ephemeralml.bench.targets import judge
from ephemeralml.errors import ConfigurationError
from ephemeralml.files import write_whole
from ephemeralml.inference.encoder import WEIGHTS_FILE

SCHEMA: Final = SPEED
SCHEMA_FILE: Final = Path(__file__).with_name("speed.schema.json")

CASES: Final[dict[str, Callable[[Bench], Case]]] = {
    # Those without peers go first: a process with every library loaded is another one.
    "e": scaling.cost_per_token,
    "b": latency.sealed,
    "d": throughput.many_clients,
    "g": process.memory,
    "h": process.cold_start,
    "j": from_s3.from_s3,
    "a": latency.one_text,
    "c": throughput.mixed_list,
    "f": throughput.arithmetic,
}


def choose(only: str | None) -> list[str]:
    """Letters of `--only`, in the order in which they run. Raises `ConfigurationError` for one that is none."""
    if only is None:
        return list(CASES)
    letters = {letter.strip() for letter in only.split(",") if letter.strip()}
    if not letters or not letters <= CASES.keys():
        raise ConfigurationError(
            f"--only takes letters of {', '.join(sorted(CASES))}, separated by commas", code="bench.only"
        )
    return [letter for letter in CASES if letter in letters]


def run(
    model: Path,
    out: Path,
    *,
    only: str | None = None,
    quick: bool = False,
    soak_minutes: float | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Path, dict[str, Any]]:
    """Measure, and write the result and its picture into the folder `out`; returns the file's path and content.

    Raises `ConfigurationError` for an unknown case, `ModelError` for a folder that does not load, `BenchError` for a
    run whose figures would be wrong. An interrupted run writes nothing.
    """
    letters = choose(only)
    chosen: dict[str, Callable[[Bench], Case]] = {letter: CASES[letter] for letter in letters}
    if soak_minutes is not None:
        chosen["i"] = partial(soak, minutes=soak_minutes)
    # What cannot be written should be known before half an hour of measuring.
    out.mkdir(parents=True, exist_ok=True)
    started = datetime.now(UTC)
    effort = Effort.quick() if quick else Effort()
    with machine.two_cpus():
        about = machine.describe()
        with Bench(model, effort=effort, say=say) as bench:
            described = _describe_model(bench)
            cases = {letter: _measure(letter, case, bench) for letter, case in chosen.items()}
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "schema_version": VERSIONS[SCHEMA],
        "kind": "measured",
        "platform": "local",
        "started": started.isoformat(timespec="seconds"),
        "seconds": round((datetime.now(UTC) - started).total_seconds(), 1),
        "quick": quick,
        "source": machine.git_state(),
        "machine": about,
        "model": described,
        "cases": dict(sorted(cases.items())),
        "targets": judge(cases),
        "figure": None,
    }
    stem = f"speed-{started:%Y%m%dT%H%M%SZ}"
    _write(out / f"{stem}.json", result)
    return out / f"{stem}.json", result


def _measure(letter: str, case: Callable[[Bench], Case], bench: Bench) -> dict[str, Any]:
    bench.say(f"case {letter}")
    # What is loaded stays: the collector need not walk through it in the middle of a call.
    gc.collect()
    gc.freeze()
    before = machine.busy()
    made = case(bench)
    made.neighbours = [round(share, 3) for share in (before, machine.busy())]
    return made.to_json()


def _describe_model(bench: Bench) -> dict[str, Any]:
    bench.say("loading the model")
    spec = bench.ours.fp32.spec
    return {
        "name": model_name(bench.model),
        "weights_sha256": _digest(bench.model / WEIGHTS_FILE),
        "architecture": spec.architecture,
        "dimension": spec.dimension,
        "max_sequence_length": spec.max_sequence_length,
        "pooling": spec.pooling,
        "weights_bytes": (bench.model / WEIGHTS_FILE).stat().st_size,
        # What each package's precision ran in on this CPU.
        "precisions": {asked: encoder.precision for asked, encoder in bench.ours.encoders.items()},
        "precisions_absent": dict(bench.ours.absent),
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _write(path: Path, result: dict[str, Any]) -> None:
    if "e" in result["cases"]:
        picture = path.with_suffix(".png")
        cpu = result["machine"]["cpu"]["model"] or "unknown CPU"
        words = f"{result['model']['name']}, {cpu}, {result['machine']['threads']} threads, {result['started'][:10]}"
        try:
            write_whole(picture, figure.draw(result["cases"]["e"], machine=words))
            result["figure"] = picture.name
        except ImportError:
            result["cases"]["e"]["absent"]["figure"] = "matplotlib is not installed"
    write_whole(path, json.dumps(result, indent=1, ensure_ascii=False).encode() + b"\n")


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 7) that every result file keeps to."""
    loaded: dict[str, Any] = json.loads(SCHEMA_FILE.read_bytes())
    return loaded


def missed(targets: Sequence[dict[str, Any]]) -> int:
    """How many targets were measured and missed."""
    return sum(row["met"] is False for row in targets)

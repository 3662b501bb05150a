"""Variants of this code that would give figures of something else: each is made, run, and caught."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ephemeralml.bench.errors import BenchError
from ephemeralml.bench.suite.compare import Result
from ephemeralml.bench.suite.questions import Asked, receive, send
from ephemeralml.bench.suite.record import Record
from ephemeralml.bench.suite.transport import round_trips, stream_in
from ephemeralml.bench.suite.turns import check_files, check_same, compare
from ephemeralml.session.blocking import read_exactly

from .conftest import PATIENCE, copy_sources

# What the suite does of one enclave that measures itself, and of a bare-metal process beside it.
DRIVER = """
import sys, tempfile
from pathlib import Path
from ephemeralml.bench.deployment import Deployment
from ephemeralml.bench.errors import BenchError
from ephemeralml.bench.suite import measured, turns
from ephemeralml.bench.suite.bare_metal import BareMetal
from ephemeralml.bench.suite.effort import Effort
from ephemeralml.bench.suite.record import Record
model = Path(sys.argv[1])
with tempfile.TemporaryDirectory() as scratch:
    (world := Path(scratch) / "world").mkdir()
    with Deployment(world, model) as place:
        for what in sys.argv[2:]:
            try:
                if what == "damaged":
                    print("refused:", place.damaged(Path(scratch)))
                    continue
                with place.measure() as measuring:
                    asked = measured.ask(measuring.address)
                    if what == "release":
                        record = Record("enclave", "local", "measured")
                        measured.key_release(place, asked, record, Effort(iterations=5))
                        print("controls:", record.controls)
                    else:
                        metal = BareMetal(model, manifest=place.package / "manifest.cose", scratch=Path(scratch))
                        with metal.start("a text") as bare:
                            texts = ["one", "two"]
                            print(turns.compare(turns.vectors(asked, texts), turns.vectors(bare.asked, texts)))
            except BenchError as error:
                print("caught:", error.code, error)
"""


def driven(sources: Path, model: Path, *what: str) -> str:
    """What the driver says over those sources."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(model), *what],
        env=os.environ | {"PYTHONPATH": str(sources.parent)},
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_code_as_it_is_passes(tiny_model: Path, tmp_path: Path) -> None:
    said = driven(copy_sources(tmp_path), tiny_model, "release", "vectors", "damaged")
    assert "'kms_calls': 8, 'wrong_context': 'kms." in said
    assert "'largest_difference': " in said
    assert said.endswith("refused: artifact.authentication\n")


@pytest.mark.parametrize(
    ("what", "file", "old", "new", "caught"),
    [
        (
            "release",
            "bench/suite/inside.py",
            "        key = request.open(ask(record, document))\n",
            "        kept = self.__dict__\n"
            '        if "key" not in kept:\n'
            '            kept["key"] = request.open(ask(record, document))\n'
            '        key = kept["key"]\n',
            "bench.kms KMS says that it released 1 keys, the enclave that it asked for 8",
        ),
        (
            "release",
            "host/services.py",
            "            encryption_context=ask.encryption_context,\n",
            "            encryption_context=dict(\n"
            "                Manifest.verify(self._source.manifest(), owner=None).key.encryption_context\n"
            "            ),\n",
            "bench.kms a key asked for under a wrong encryption context was not refused",
        ),
        (
            "damaged",
            "enclave/boot.py",
            "    files = open_package(manifest, source=upstream, dek=dek)\n",
            "    from pathlib import Path\n"
            "    plain = Path(MODEL)\n"
            "    files = {a.name: bytearray((plain / a.name).read_bytes()) for a in manifest.artifacts}\n",
            "bench.model an enclave booted from a package with a changed bit",
        ),
        (
            "vectors",
            "bench/suite/work.py",
            'encode(list(question["texts"])).astype("<f4")',
            'encode(list(question["texts"])).astype("<f4") + ("release" in self._answers) * np.float32(2e-5)',
            "bench.vectors",
        ),
        (
            "vectors",
            "bench/suite/bare.py",
            "        content = (folder / artifact.name).read_bytes()\n",
            "        content = (folder / artifact.name).read_bytes()\n"
            "        content = content[:-1] + bytes([content[-1] ^ 1])\n",
            "bench.bare",
        ),
    ],
    ids=[
        "a key that was kept",
        "a broker that answers anything",
        "a model that does not come from the package",
        "other vectors than bare metal's",
        "another model on bare metal",
    ],
)
def test_a_variant_is_caught(
    tiny_model: Path, tmp_path: Path, *, what: str, file: str, old: str, new: str, caught: str
) -> None:
    sources = copy_sources(tmp_path)
    text = (sources / file).read_text()
    assert text.count(old) == 1, "the variant no longer fits the code"
    (sources / file).write_text(text.replace(old, new.replace("MODEL", repr(str(tiny_model)))))
    assert f"caught: {caught}" in driven(sources, tiny_model, what)


@contextmanager
def far_end(answer: Callable[[socket.socket, dict[str, Any]], None]) -> Iterator[Asked]:
    """Somebody who answers a question in their own way."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with theirs:
            answer(theirs, receive(theirs))

    thread = threading.Thread(target=serve)
    thread.start()
    ours.settimeout(PATIENCE)
    with Asked(ours) as asked:
        yield asked
    thread.join()


def test_a_round_trip_that_brings_an_error_is_caught() -> None:
    def refuse(connection: socket.socket, question: dict[str, Any]) -> None:
        read_exactly(connection, question["size"])
        connection.sendall((b'{"error": "no such thing"}' + bytes(64))[:64])

    with far_end(refuse) as asked, pytest.raises(BenchError, match="did not bring the same bytes back") as caught:
        round_trips(asked, 64, warmups=0, iterations=1)
    assert caught.value.code == "bench.echo"


def test_a_stream_that_was_not_taken_is_caught() -> None:
    def take_half(connection: socket.socket, question: dict[str, Any]) -> None:
        read_exactly(connection, question["bytes"])
        send(connection, {"taken": question["bytes"] // 2})

    with far_end(take_half) as asked, pytest.raises(BenchError, match="did not take all"):
        stream_in(asked, 1 << 20)


@pytest.mark.parametrize("difference", [2e-5, np.nan])
def test_vectors_that_differ_are_refused(difference: float) -> None:
    ours = np.eye(3, dtype=np.float32)
    assert compare(ours, ours)["largest_difference"] == 0
    with pytest.raises(BenchError, match="differ"):
        compare(ours + np.float32(difference), ours)


def test_places_that_differ_in_more_than_the_place_are_refused() -> None:
    place = {"threads": 2, "precision": "fp32", "python": "3.13.5", "libraries": {"numpy": "2"}}
    check_same(place, dict(place))
    check_same(place, place | {"python": "3.13.7"})
    for name, other in {"threads": 4, "precision": "int8", "python": "3.12.2", "libraries": {}}.items():
        with pytest.raises(BenchError, match=name):
            check_same(place, place | {name: other})


def test_a_file_that_is_not_the_packages_is_refused() -> None:
    check_files({"a": "1", "b": "2"}, {"a": "1"})
    for digests in ({"a": "2"}, {}):
        with pytest.raises(BenchError, match="came from elsewhere"):
            check_files(digests, {"a": "1"})


@pytest.mark.parametrize("environment", ["baseline", "enclave"])
def test_a_stage_that_was_not_run_stops_the_result(results: Path, environment: str) -> None:
    result = Result.load(results / f"{environment}_results.json")
    kept = {
        name: samples for name, samples in result.samples.items() if name.partition("/")[0] in {"stage", "inference"}
    }

    def record(samples: dict[str, list[float]]) -> Record:
        return Record(result["environment"], "local", "measured", samples=samples, absent=result["absent"])

    record(dict(result.samples)).require()
    for name in kept:
        if name == "stage/rsa_key":
            continue
        without = {other: samples for other, samples in result.samples.items() if other != name}
        with pytest.raises(BenchError, match=f"{name} was not run"):
            record(without).require()
        with pytest.raises(BenchError, match=f"{name} has a sample that is not above 0"):
            record({**without, name: [0.0]}).require()

"""`ephemeralml bench run`: bare metal and enclave in turns, what must fail seen to fail, two result files."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ephemeralml.attestation import Policy
from ephemeralml.bench import machine
from ephemeralml.bench.deployment import Deployment
from ephemeralml.bench.errors import BenchError
from ephemeralml.bench.ours import model_name
from ephemeralml.bench.peers import Vectors
from ephemeralml.bench.suite import measured, served
from ephemeralml.bench.suite.bare_metal import Bare, BareMetal
from ephemeralml.bench.suite.effort import Effort
from ephemeralml.bench.suite.inputs import Inputs
from ephemeralml.bench.suite.instance import Instance
from ephemeralml.bench.suite.places import Place
from ephemeralml.bench.suite.record import Record, to_files
from ephemeralml.bench.suite.turns import check_files, check_same, compare, encode_in_turns, sweeps, vectors
from ephemeralml.bench.suite.virtual import virtual_machines
from ephemeralml.files import write_whole
from ephemeralml.inference import Encoder
from ephemeralml.inference.encoder import WEIGHTS_FILE
from ephemeralml.inference.weights import Weights
from ephemeralml.package import Manifest
from ephemeralml.session.transport import Address

Say = Callable[[str], None]
Write = Callable[[dict[str, bytes]], list[Path]]
_NO_BARE: Final = "run with --skip-baseline"
_EMULATED: Final = {
    "bare metal": "an emulated processor is another machine than this one: there is no overhead to tell",
    "longer texts, larger batches, more clients": "minutes each on an emulated processor, and nothing about a real one",
}


class Run:
    """One run over one place; `go` returns the files to write."""

    def __init__(
        self,
        place: Place,
        model: Path,
        *,
        inputs: Inputs,
        baseline: bool,
        effort: Effort,
        scratch: Path,
        say: Say = lambda _: None,
    ) -> None:
        self._place = place
        self._model = model
        # Of vectors alone there is something to compare on every machine.
        self._emulated = place.kind == "emulated"
        self._baseline = baseline and not self._emulated
        self._effort = effort
        self._scratch = scratch
        self._say = say
        self._manifest = Manifest.verify(place.manifest, owner=None)
        self._inputs = inputs
        # What the enclave's vectors are held against, once it is computed.
        self._expected: Vectors | None = None
        self._enclave = Record("enclave", place.platform, place.kind)
        # What runs beside an emulated machine runs on this one.
        self._bare = Record("bare_metal", place.platform, "measured")

    def go(self) -> dict[str, bytes]:
        """Raises `BenchError` for a run that would give a wrong figure, or lacks one."""
        started = datetime.now(UTC)
        about = machine.describe()
        if self._place.allocation_mb is None:
            self._enclave.absent["memory.enclave_allocation_mb"] = "a process takes none of its own"
        if self._emulated:
            self._enclave.absent |= _EMULATED
        with ExitStack() as stack:
            bare = self._start_bare(stack) if self._baseline else None
            self._expected = self._compute(bare)
            self._phase("the enclave that serves", lambda: self._serving(bare))
            software = self._phase("the enclave that measures itself", lambda: self._inside(bare))
            self._say("what must fail")
            self._enclave.controls["damaged_package"] = self._place.damaged(self._scratch)
            if self._enclave.controls["damaged_package"] is None:
                self._enclave.absent["controls.damaged_package"] = "the package is not this run's to change"
        whole = self._about(about, started, software)
        records = [self._bare, self._enclave] if self._baseline else [self._enclave]
        files: dict[str, bytes] = {}
        for record in records:
            files |= to_files(record, whole, texts=self._inputs.texts, warmups=self._effort.warmups)
        return files

    def _phase(self, name: str, work: Callable[[], Any]) -> Any:
        self._say(name)
        before = machine.busy()
        result = work()
        shares = [round(share, 3) for share in (before, machine.busy())]
        for record in (self._bare, self._enclave):
            record.neighbours[name] = shares
        return result

    def _compute(self, bare: Bare | None) -> Vectors | None:
        """What the enclave's vectors are held against."""
        if bare is not None:
            return vectors(bare.asked, self._inputs.texts)
        if self._emulated:
            return Encoder.from_folder(self._model).encode(self._inputs.texts)
        return None

    def _start_bare(self, stack: ExitStack) -> Bare:
        path = self._scratch / "manifest.cose"
        path.write_bytes(self._place.manifest)
        metal = BareMetal(self._model, manifest=path, scratch=self._scratch)
        text, record = self._inputs.texts[0], self._bare
        for number in range(self._effort.cold_starts - 1):
            self._say(f"bare metal {number + 1} of {self._effort.cold_starts}")
            with metal.start(text) as bare:
                record.add("cold_start/first_answer", [bare.first_vector])
        bare = stack.enter_context(metal.start(text))
        record.add("cold_start/first_answer", [bare.first_vector])
        memory = bare.asked.ask("memory")
        record.memory = self._memory(
            memory["VmHWM"], memory["VmRSS"], "VmHWM of the process, when loaded", allocation=None
        )
        record.controls = {"kms_calls": None, "wrong_context": None, "damaged_package": None}
        for name in ("attestation", "key_release", "decrypt"):
            record.absent[f"stage/{name}"] = "bare metal has no such stage"
        record.absent["vsock"] = "bare metal has none; rtt/tcp and stream/tcp are TCP on loopback"
        record.absent["memory.enclave_allocation_mb"] = "bare metal has none"
        return bare

    def _serving(self, bare: Bare | None) -> None:
        inputs, effort, record = self._inputs, self._effort, self._enclave
        served.cold_starts(self._place, record, inputs.texts[0], effort, self._say)
        with self._place.serve() as enclave:
            loaded = None if enclave.enclave is None else enclave.memory()
            beside = None if bare is None else (bare.asked, self._bare)
            served.sealed(enclave, record, inputs.texts, bare=beside, expected=self._expected, effort=effort)
            served.sessions(enclave, record, inputs.texts[0], effort)
            served.concurrency(enclave, record, inputs.many, effort, self._say)
            worked = None if enclave.enclave is None else enclave.memory()
        if loaded is not None and worked is not None:
            record.memory = self._memory(
                worked["VmHWM"],
                worked["VmRSS"],
                "VmHWM of the enclave's process, /proc/PID/status, after all requests",
                allocation=self._place.allocation_mb,
            )
            record.figures["peak RSS when loaded, MB"] = loaded["VmHWM"]

    def _inside(self, bare: Bare | None) -> dict[str, Any]:
        inputs, effort, record = self._inputs, self._effort, self._enclave
        with self._place.measure() as measuring:
            with measured.ask(measuring.address) as asked:
                about = asked.ask("about")
                memory = asked.ask("memory")
                if not record.memory:
                    record.memory = self._memory(
                        memory["VmHWM"],
                        memory["VmRSS"],
                        "VmHWM of the measuring enclave's process, by itself, when loaded",
                        allocation=self._place.allocation_mb,
                    )
                places = [(asked, record)]
                mine = vectors(asked, inputs.texts)
                if bare is not None:
                    check_same(about, bare.asked.ask("about"))
                    places.insert(0, (bare.asked, self._bare))
                    self._bare.quality = compare(vectors(bare.asked, inputs.texts), mine)
                record.quality |= {"vectors_sha256": compare(mine, self._expected)["vectors_sha256"]}
                if self._expected is None:
                    record.absent["quality"] = _NO_BARE
                self._say("latency")
                calls = [[text] for text in inputs.texts]
                encode_in_turns(places, "inference", calls, iterations=effort.iterations, effort=effort)
                sweeps(places, inputs.sweeps(effort), effort=effort, say=self._say)
                self._say("parts of a request")
                measured.parts(asked, record, inputs.texts[0], effort)
                self._say("key release")
                measured.key_release(self._place, asked, record, effort)
                self._say("load by stage")
                expected = {artifact.name: artifact.sha256.hex() for artifact in self._manifest.artifacts}
                check_files(measured.load(asked, record, effort), expected)
                if bare is not None:
                    check_files(measured.load(bare.asked, self._bare, effort), expected)
            self._say("transport")
            measured.transports(measuring, record, effort)
            if bare is not None:
                bare.asked.close()
                measured.transport("tcp", bare.address, self._bare, effort)
        return about

    def _memory(self, peak: float, now: float, source: str, *, allocation: float | None) -> dict[str, Any]:
        return {
            "peak_rss_mb": peak,
            "peak_rss_source": source,
            "rss_mb": now,
            "model_size_mb": sum(artifact.size for artifact in self._manifest.artifacts) / 1e6,
            "enclave_allocation_mb": allocation,
        }

    def _about(self, about: dict[str, Any], started: datetime, software: dict[str, Any]) -> dict[str, Any]:
        source = machine.git_state()
        cpu = about["cpu"]["model"] or "unknown CPU"
        weights = (self._model / WEIGHTS_FILE).read_bytes()
        return {
            "model": model_name(self._model),
            "model_params": Weights(weights).parameters,
            "model_sha256": self._manifest.artifact(WEIGHTS_FILE).sha256.hex(),
            "hardware": f"{cpu}, {about['cpus_used']} of {about['cpus']} CPUs",
            "machine": about,
            "timestamp": started.isoformat(timespec="seconds"),
            "seconds": round((datetime.now(UTC) - started).total_seconds(), 1),
            "commit": source["commit"],
            "dirty": source["dirty"],
            "quick": self._effort.quick,
            "threads": software["threads"],
            "precision": software["precision"],
            "software": {"python": software["python"], "libraries": software["libraries"]},
        }


def measure_here(
    model: Path, out: Path, *, memory_mib: int | None, baseline: bool, effort: Effort, say: Say
) -> list[Path]:
    """Owner, KMS, host and enclave of this machine; writes the results into `out` and returns their paths.

    Enclaves are virtual machines with `memory_mib`, or processes where that is None. Raises `BenchError` for a run that
    would give a wrong figure, and as `results_in` does. An interrupted run writes nothing.
    """
    inputs = Inputs(model)
    with _prepared(out) as (write, scratch):
        say("starting a KMS and packing the model")
        world = scratch / "world"
        world.mkdir()
        made: AbstractContextManager[Place] = (
            Deployment(world, model)
            if memory_mib is None
            else virtual_machines(world, model, memory_mib=memory_mib, scratch=scratch, say=say)
        )
        with made as place:
            run = Run(place, model, inputs=inputs, baseline=baseline, effort=effort, scratch=scratch, say=say)
            return write(run.go())


def measure_on(
    platform: str,
    model: Path,
    out: Path,
    *,
    package: str,
    policy: Path,
    images: tuple[Path, Path],
    connect: str,
    memory_mib: int,
    options: tuple[str, ...],
    baseline: bool,
    effort: Effort,
    say: Say,
) -> list[Path]:
    """As `measure_here`, with enclaves that are `images`: the one that serves, the one that measures itself."""
    inputs = Inputs(model)
    with _prepared(out) as (write, scratch):
        place = Instance(
            platform=platform,
            package=package,
            policy=Policy.load(policy),
            eif=images[0],
            bench_eif=images[1],
            address=Address.parse(connect),
            memory_mib=memory_mib,
            scratch=scratch,
            options=options,
        )
        run = Run(place, model, inputs=inputs, baseline=baseline, effort=effort, scratch=scratch, say=say)
        return write(run.go())


@contextmanager
def _prepared(out: Path) -> Iterator[tuple[Write, Path]]:
    with (
        results_in(out) as write,
        tempfile.TemporaryDirectory(prefix="ephemeralml-bench-") as scratch,
        machine.two_cpus(),
    ):
        yield write, Path(scratch)


@contextmanager
def results_in(folder: Path) -> Iterator[Write]:
    """`folder` for one run alone: gives what writes its files, each whole, once all are there.

    Raises `BenchError` when another run has it, OSError when nothing can be written there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BenchError(
                f"another run writes its results into {folder}, and both would be slower for it: wait for it",
                code="bench.running",
            ) from None
        # What cannot be written should be known before half an hour of measuring.
        probe = folder / ".probe"
        write_whole(probe, b"")
        probe.unlink()

        def write(files: dict[str, bytes]) -> list[Path]:
            # Samples first: a result never names a file that is not there yet.
            for name, content in files.items():
                write_whole(folder / name, content)
            return [folder / name for name in files]

        yield write
    finally:
        os.close(descriptor)

"""OpenVINO on the CPU, for bf16 and int8 packages: a compiled model that only ever sees a few shapes."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from ephemeralml.errors import EphemeralMLError, ModelError
from ephemeralml.inference.bert import BertConfig
from ephemeralml.inference.grid import TOKENS_PER_TEXT, Call, Grid, Place, Shape
from ephemeralml.inference.openvino_graph import GraphBuilder, Tables
from ephemeralml.inference.weights import Array, Weights
from ephemeralml.package.model import ModelSpec

_MASKED: Final = np.float32(-1e9)
# Of a vector's length; between shapes bf16 differs by a hundredth of that, and matrices of zeros by all of it.
_SHAPE_TOLERANCE: Final = 0.1
# Of 32, 64, 128 and 384, the largest whose error stays within that of the int8 weights.
_DYNAMIC_GROUP: Final = "64"


class OpenVinoEngine:
    """Runs padded batches of token ids. Thread-safe; one call runs at a time, on `threads` (default: usable CPUs).

    Nothing of `weights` is needed once this returns. `arithmetic` is by default bf16 where the CPU has AMX for it and
    fp32 elsewhere. Raises `ModelError`: weights that do not fit, a runtime that is missing or refuses the model.
    """

    def __init__(
        self,
        config: BertConfig,
        spec: ModelSpec,
        weights: Weights,
        *,
        threads: int | None = None,
        arithmetic: str | None = None,
    ) -> None:
        ov = load_openvino()
        arithmetic = arithmetic or ("bf16" if "amx_bf16" in cpu_flags() else "fp32")
        self.grid = Grid(config.max_position_embeddings)
        self._spec = spec
        self._lock = threading.Lock()
        self._tables = Tables(config, spec, weights)
        settings = {
            "INFERENCE_PRECISION_HINT": {"bf16": "bf16", "fp32": "f32"}[arithmetic],
            "INFERENCE_NUM_THREADS": threads or len(os.sched_getaffinity(0)),
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # Relay and client may share the CPUs: a thread that cannot move waits for whoever sits on its own.
            "ENABLE_CPU_PINNING": False,
        }
        if spec.precision == "int8" and arithmetic == "fp32":
            settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = _DYNAMIC_GROUP
        self._seen: set[Shape] = set()
        self._reference: Array
        try:
            products = self._compile(ov, GraphBuilder(ov, config, spec, weights, arithmetic=arithmetic), settings)
            self._scratch.release()
            # Small matrices are read again for another shape: then all stay.
            if not all(map(self._keeps_its_own, (min(self.grid.shapes), max(self.grid.shapes)))):
                products = self._compile(ov, GraphBuilder(ov, config, spec, weights, arithmetic=arithmetic), settings)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError("the inference engine refused the model", code="model.engine") from error
        self.precision = spec.precision if spec.precision == "int8" else _precision(products)
        """What ran, by the kernels the runtime took, never by what was asked for: ``bf16``, ``fp32`` or ``int8``."""

    def _compile(self, ov: ModuleType, builder: GraphBuilder, settings: Mapping[str, Any]) -> list[str]:
        """Compile and run once, which packs the weights; returns the kernels that the runtime took for them."""
        self._scratch = builder.scratch
        compiled = ov.Core().compile_model(builder.build(), "CPU", dict(settings))
        self._request = compiled.create_infer_request()
        self._reference = self._probe(min(self.grid.shapes))
        return _products(compiled)

    def run(self, ids: npt.NDArray[np.int32], mask: npt.NDArray[np.int32]) -> Array:
        """Vectors, float32 (texts, dimension), for `ids` padded to (texts, tokens) and a `mask` of 1 for real tokens.

        Raises `EphemeralMLError` with code ``inference.engine`` when the runtime fails.
        """
        vectors = np.empty((len(ids), self._spec.dimension), np.float32)
        lengths: list[int] = mask.sum(1).tolist()
        try:
            for call in self.grid.plan(lengths):
                self._check(call.shape)
                output = self._infer(*self._inputs(call, ids, lengths))
                for text, row, segment, _ in call.places:
                    vectors[text] = output[row, segment]
        except Exception as error:
            raise EphemeralMLError("the inference engine failed on this batch", code="inference.engine") from error
        return vectors

    def _check(self, shape: Shape) -> None:
        """At a shape's first use: the runtime may pack the matrices anew for it, and their memory was given back."""
        if shape not in self._seen:
            if not self._keeps_its_own(shape):
                raise ValueError("the matrices were read again")
            self._seen.add(shape)

    def _keeps_its_own(self, shape: Shape) -> bool:
        """Whether a text's vector in this shape is what it was before any memory was given back."""
        error = np.linalg.norm(self._probe(shape) - self._reference)
        return bool(error <= _SHAPE_TOLERANCE * np.linalg.norm(self._reference))

    def _probe(self, shape: Shape) -> Array:
        ids = np.array([[0, 1, 2, 3, 4]], np.int32)
        place = Place(0, shape[0] - 1, 0, 0)
        output = self._infer(*self._inputs(Call(shape, (place,)), ids, [ids.shape[1]]))
        vector: Array = output[place.row, place.segment]
        return vector

    def _inputs(self, call: Call, ids: npt.NDArray[np.int32], lengths: Sequence[int]) -> tuple[Array, Array, Array]:
        """``rows``, ``bias`` and ``pool`` of the graph."""
        rows, tokens = call.shape
        packed, positions, owners = (np.zeros(call.shape, np.int32) for _ in range(3))
        pool = np.zeros((rows, tokens // TOKENS_PER_TEXT, tokens), np.float32)
        for text, row, segment, start in call.places:
            length = lengths[text]
            stop = start + length
            packed[row, start:stop] = ids[text, :length]
            positions[row, start:stop] = np.arange(length)
            # Padding is nobody's, which is 0.
            owners[row, start:stop] = segment + 1
            if self._spec.pooling == "cls":
                pool[row, segment, start] = 1
            else:
                pool[row, segment, start:stop] = 1 / length
        apart = owners[:, np.newaxis, :, np.newaxis] != owners[:, np.newaxis, np.newaxis]
        return self._tables.look_up(packed, positions), apart * _MASKED, pool

    def _infer(self, rows: Array, bias: Array, pool: Array) -> Array:
        inputs = {"rows": rows, "bias": bias, "pool": pool}
        with self._lock:
            output = self._request.infer(inputs, share_inputs=True, share_outputs=True)[0]
            return np.array(output, np.float32)


def load_openvino() -> ModuleType:
    """Import the library. Raises `ModelError` naming what to install."""
    # Its converter, which importing it would load too, reports each import to the maker and takes 16 MB; the library
    # goes without where it cannot be imported.
    blocked = "openvino.tools.ovc"
    before = sys.modules.get(blocked)
    sys.modules.setdefault(blocked, None)  # type: ignore[arg-type]
    try:
        import openvino  # noqa: PLC0415 - only bf16 and int8 packages need it
    except ImportError as error:
        raise ModelError(
            "packages of bf16 and int8 precision need OpenVINO: pip install 'ephemeralml[fast]'", code="model.engine"
        ) from error
    finally:
        if before is None:
            sys.modules.pop(blocked, None)
    return cast("ModuleType", openvino)


def cpu_flags() -> frozenset[str]:
    """What the first CPU can do, as Linux lists it; empty where there is no such list."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    line = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return frozenset(line.partition(":")[2].split())


def _products(compiled: Any) -> list[str]:
    """The kernels of the linear layers, such as ``brgemm_avx512_amx_bf16``."""
    kernels = []
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if "layerType" in info and info["layerType"].astype(str) == "FullyConnected":
            kernels.append(str(info["primitiveType"].astype(str)))
    return kernels


def _precision(kernels: list[str]) -> str:
    suffixes = {kernel.rpartition("_")[2] for kernel in kernels}
    if suffixes == {"f32"}:
        return "fp32"
    if suffixes and suffixes <= {"bf16", "f32"}:
        return "bf16"
    raise ModelError(f"the inference engine ran kernels it was not asked for: {sorted(suffixes)}", code="model.engine")

"""ONNX Runtime on the CPU: one session over one graph."""

from __future__ import annotations

import os
from typing import Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from ephemeralml.errors import EphemeralMLError, ModelError
from ephemeralml.inference.bert import Graph
from ephemeralml.inference.protobuf import NO_FOLDER
from ephemeralml.inference.weights import Array

# How threads wait for each other: by spinning, long enough for the gap between two operators and no longer. On two
# cores that takes 7 to 20 % off a call. Beside a neighbour that never rests it adds up to a third, where the runtime's
# own choice, which spins on, adds up to 90 %.
_WAITING: Final = {"allow_spinning": "1", "spin_duration_us": "50", "spin_backoff_max": "64"}


class Engine:
    """Runs padded batches of token ids. Thread-safe; concurrent calls share the `threads` (default: usable CPUs).

    The runtime works on the weights where they lie, but for the matrices, which it packs for its kernels: their memory
    is given back (`Weights.release`). Raises `ModelError` when the runtime refuses the graph.
    """

    precision: Final = "fp32"

    def __init__(self, graph: Graph, *, threads: int | None = None) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.inter_op_num_threads = 1
        for name, value in _WAITING.items():
            options.add_session_config_entry(f"session.intra_op.{name}", value)
        # The graph is fused as written: nothing is left for the optimiser to find.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        # Each shape's buffers would be remembered for good.
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", NO_FOLDER)
        # The runtime takes no reference of its own.
        values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in graph.weights.items()}
        for name, value in values.items():
            options.add_initializer(name, value)
        try:
            self._session = ort.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelError("the inference engine refused the model", code="model.engine") from error
        before = self._probe()
        given = graph.release()
        # Should a runtime not have packed a matrix after all, it would now read zeros.
        if not all(map(np.array_equal, before, self._probe())):
            raise ModelError("the inference engine does not keep its own copy of the matrices", code="model.engine")
        self._lent = [(values[name], array) for name, array in graph.weights.items() if name not in given]

    def _probe(self) -> list[Array]:
        # Three tokens of three positions: every model has them.
        ones = (np.ones(shape, np.int32) for shape in ((1, 1), (1, 2), (3, 3)))
        return [self.run(mask.cumsum(1, dtype=np.int32) - 1, mask) for mask in ones]

    def run(self, ids: npt.NDArray[np.int32], mask: npt.NDArray[np.int32]) -> Array:
        """Vectors, float32 (texts, dimension), for `ids` padded to (texts, tokens) and a `mask` of 1 for real tokens.

        Raises `EphemeralMLError` with code ``inference.engine`` when the runtime fails.
        """
        try:
            vectors: Array = self._session.run(["vectors"], {"ids": ids, "mask": mask})[0]
        except Exception as error:
            raise EphemeralMLError("the inference engine failed on this batch", code="inference.engine") from error
        return vectors

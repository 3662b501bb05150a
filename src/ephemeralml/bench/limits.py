"""What the silicon gives in this very run: a large matrix product in each precision, by whoever does it fastest here.

A share of the limit is only as good as the limit: where several libraries can multiply, all are measured and the
fastest counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from ephemeralml.bench.machine import THREADS
from ephemeralml.bench.timing import Call

SIZE: Final = 2048


@dataclass(slots=True)
class Limits:
    """Products of two `size` × `size` matrices, by name; `precision` of each; why others are absent."""

    size: int = SIZE
    calls: dict[str, Call] = field(default_factory=dict)
    precision: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def operations(self) -> float:
        """Of one product: a multiplication and an addition for each of size³ pairs."""
        return 2.0 * self.size**3

    def fastest(self, medians: Mapping[str, float]) -> dict[str, tuple[str, float]]:
        """For each precision who was fastest and its 10^9 operations a second; `medians` in ms."""
        best: dict[str, tuple[str, float]] = {}
        for name, milliseconds in medians.items():
            rate = self.operations / milliseconds / 1e6
            precision = self.precision[name]
            if precision not in best or rate > best[precision][1]:
                best[precision] = name, rate
        return best


def prepare(size: int = SIZE) -> Limits:
    """Operands in memory and one call each; what a missing library would have measured is absent with the reason."""
    limits = Limits(size)
    makers: dict[str, tuple[str, Callable[[int], Call]]] = {
        "numpy fp32": ("fp32", _numpy),
        "torch fp32": ("fp32", _torch("float32")),
        "torch bf16": ("bf16", _torch("bfloat16")),
        "torch int8": ("int8", _torch_int8),
        "ONNX Runtime int8": ("int8", _onnx_int8),
    }
    for name, (precision, make) in makers.items():
        try:
            call = make(size)
            call()
        # A peer may fail in any way of its own; that is then the reason.
        except Exception as error:  # noqa: BLE001
            limits.absent[name] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            continue
        limits.calls[name], limits.precision[name] = call, precision
    return limits


def _numpy(size: int) -> Call:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((size, size), np.float32) for _ in range(2))
    out = np.empty_like(a)
    # The BLAS counted its threads when it was loaded, perhaps before this process was held to two CPUs.
    with suppress(ImportError):
        from threadpoolctl import threadpool_limits  # noqa: PLC0415

        threadpool_limits(THREADS)
    return lambda: np.matmul(a, b, out=out)


def _torch(dtype: str) -> Callable[[int], Call]:
    def make(size: int) -> Call:
        import torch  # noqa: PLC0415

        torch.set_num_threads(THREADS)
        kind = getattr(torch, dtype)
        a, b = (torch.randn(size, size).to(kind) for _ in range(2))
        out = torch.empty(size, size, dtype=kind)
        return lambda: torch.mm(a, b, out=out)

    return make


def _torch_int8(size: int) -> Call:
    import torch  # noqa: PLC0415

    torch.set_num_threads(THREADS)
    a, b = (torch.randint(-127, 128, (size, size), dtype=torch.int8) for _ in range(2))
    return lambda: torch._int_mm(a, b)


def _onnx_int8(size: int) -> Call:
    """MatMulInteger of unsigned by signed, the form for which CPUs have instructions, with a packed constant."""
    import onnxruntime as ort  # noqa: PLC0415
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415

    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (size, size), np.uint8)
    b = numpy_helper.from_array(rng.integers(-127, 128, (size, size), np.int8), "b")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["c"])],
        "limit",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [size, size])],
        [helper.make_tensor_value_info("c", TensorProto.INT32, [size, size])],
        [b],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"a": a})

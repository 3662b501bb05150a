"""The BERT encoder as an OpenVINO model, from summed embeddings to the pooled vector, for bf16 and int8 weights."""

from __future__ import annotations

import mmap
from types import ModuleType
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from ephemeralml.inference.bert import BertConfig
from ephemeralml.inference.weights import Array, Weights, encoder_prefix
from ephemeralml.package.model import ModelSpec, private_memory

Node: TypeAlias = Any
"""An OpenVINO node; the library is loaded only where a package asks for it."""

_PRECISE: Final = "DisablePrecisionConversion_0"
# Only a model that is read can carry this attribute; Python has no other way to make one.
_TEMPLATE: Final = b"""<?xml version="1.0"?><net name="precise" version="11"><layers>
<layer id="0" name="p" type="Parameter" version="opset1"><data shape="1" element_type="f32"/>
<output><port id="0" precision="FP32"><dim>1</dim></port></output></layer>
<layer id="1" name="n" type="ReLU" version="opset1"><rt_info><attribute name="precise" version="0"/></rt_info>
<input><port id="0" precision="FP32"><dim>1</dim></port></input>
<output><port id="1" precision="FP32"><dim>1</dim></port></output></layer>
<layer id="2" name="r" type="Result" version="opset1"><input><port id="0" precision="FP32"><dim>1</dim></port></input>
</layer></layers><edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/>
<edge from-layer="1" from-port="1" to-layer="2" to-port="0"/></edges></net>"""


class Scratch:
    """Arrays outside the heap, whose pages go back once the plugin has packed its own copy of them."""

    def __init__(self, size: int) -> None:
        self._map = private_memory(max(size, 1))
        self._used = 0

    def hold(self, values: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A copy of `values` as `dtype`, at a cache line of its own."""
        array = np.frombuffer(self._map, dtype, values.size, self._used).reshape(values.shape)
        array[...] = values
        self._used += -(-array.nbytes // 64) * 64
        return array

    def release(self) -> None:
        """Give the pages back; every array then reads as zeros."""
        self._map.madvise(mmap.MADV_DONTNEED)


class Tables:
    """What is looked up before the graph runs: word rows in the type they are stored in, and positions."""

    def __init__(self, config: BertConfig, spec: ModelSpec, weights: Weights) -> None:
        size, prefix = config.hidden_size, encoder_prefix(weights) + "embeddings."
        dtype = {"bf16": "BF16", "int8": "I8"}[spec.precision]
        words = prefix + "word_embeddings.weight"
        # Copies: the file's buffer goes once the model is loaded.
        self._words = weights.stored(words, (config.vocab_size, size), dtype=dtype).copy()
        self._scale = weights.tensor(words + ".scale", (config.vocab_size,)).copy() if dtype == "I8" else None
        positions = weights.tensor(prefix + "position_embeddings.weight", (config.max_position_embeddings, size))
        # Single texts only use token type 0, so its row belongs to every position.
        types = weights.tensor(prefix + "token_type_embeddings.weight", (config.type_vocab_size, size))
        self._positions = positions + types[0]

    def look_up(self, ids: npt.NDArray[np.int32], positions: npt.NDArray[np.int32]) -> Array:
        """float32 (rows, tokens, hidden_size). Raises IndexError for an id or a position outside the tables."""
        if ids.min() < 0:
            raise IndexError
        rows: Array
        if self._scale is None:
            rows = (self._words[ids].astype(np.uint32) << 16).view(np.float32)
        else:
            rows = self._words[ids].astype(np.float32)
            rows *= self._scale[ids][..., np.newaxis]
        rows += self._positions[positions]
        return rows


class GraphBuilder:
    """Builds the model; `arithmetic` is what its products are meant to run in.

    Inputs, all float32: ``rows`` (rows, tokens, hidden); ``bias`` (rows, 1, tokens, tokens), 0 where a token attends to
    another of its text, very negative elsewhere; ``pool`` (rows, texts, tokens), each token's share of each vector.
    Output: (rows, texts, hidden).
    """

    def __init__(
        self, ov: ModuleType, config: BertConfig, spec: ModelSpec, weights: Weights, *, arithmetic: str
    ) -> None:
        self._ov, self._ops = ov, ov.opset15
        self._config, self._spec, self._weights = config, spec, weights
        self._prefix = encoder_prefix(weights)
        self._arithmetic = arithmetic
        size, inner = config.hidden_size, config.intermediate_size
        matrices = config.num_hidden_layers * (4 * size * size + 2 * size * inner)
        self.scratch = Scratch(matrices * 4 + config.num_hidden_layers * 4096)
        [self._precise_mark] = [
            node.get_rt_info()[_PRECISE]
            for node in ov.Core().read_model(_TEMPLATE, b"").get_ops()
            if _PRECISE in node.get_rt_info()
        ]

    def build(self) -> Any:
        """The model. Raises `ModelError` for a tensor missing, or of another shape or type."""
        ops, ov = self._ops, self._ov
        shapes = {
            "rows": [-1, -1, self._config.hidden_size],
            "bias": [-1, 1, -1, -1],
            "pool": [-1, -1, -1],
        }
        inputs = {name: ops.parameter(ov.PartialShape(shape), np.float32) for name, shape in shapes.items()}
        for name, parameter in inputs.items():
            parameter.output(0).set_names({name})
        hidden = self._norm(inputs["rows"], "embeddings.LayerNorm")
        for index in range(self._config.num_hidden_layers):
            hidden = self._layer(f"encoder.layer.{index}.", hidden, inputs["bias"])
        vectors = self._precise(ops.matmul(inputs["pool"], hidden, False, False))
        if self._spec.normalize:
            # sentence-transformers' clamp: a length of at least 1e-12.
            vectors = self._precise(ops.normalize_l2(vectors, self._integers(2), 1e-24, "max"))
        return ov.Model([ops.result(vectors)], list(inputs.values()), "encoder")

    def _layer(self, name: str, hidden: Node, bias: Node) -> Node:
        ops, config, size = self._ops, self._config, self._config.hidden_size
        heads = [0, 0, config.num_attention_heads, size // config.num_attention_heads]
        parts = [f"{name}attention.self.{part}" for part in ("query", "key", "value")]
        fused = ops.split(self._linear(parts, hidden, size, size), self._integer(-1), 3).outputs()
        swap = self._integers(0, 2, 1, 3)
        query, key, value = (ops.transpose(ops.reshape(part, self._integers(*heads), True), swap) for part in fused)
        context = ops.scaled_dot_product_attention(query, key, value, bias, ops.constant(np.float32(heads[3] ** -0.5)))
        context = ops.reshape(ops.transpose(context, swap), self._integers(0, 0, size), True)
        attended = self._residual(context, hidden, name + "attention.output", size)
        expanded = self._linear([name + "intermediate.dense"], attended, size, config.intermediate_size)
        return self._residual(self._activation(expanded), attended, name + "output", config.intermediate_size)

    def _residual(self, value: Node, skip: Node, name: str, inputs: int) -> Node:
        projected = self._linear([name + ".dense"], value, inputs, self._config.hidden_size)
        return self._norm(self._precise(self._ops.add(projected, skip)), name + ".LayerNorm")

    def _norm(self, value: Node, name: str) -> Node:
        # The oldest BERT files call weight and bias gamma and beta.
        old = f"{self._prefix}{name}.gamma" in self._weights
        weight, bias = (
            self._ops.constant(self._tensor(f"{name}.{part}", self._config.hidden_size))
            for part in (("gamma", "beta") if old else ("weight", "bias"))
        )
        mean = self._ops.mvn(value, self._integers(-1), True, self._config.layer_norm_eps, "INSIDE_SQRT")
        scaled = self._precise(self._ops.multiply(self._precise(mean), weight))
        return self._precise(self._ops.add(scaled, bias))

    def _activation(self, value: Node) -> Node:
        match self._config.hidden_act:
            case "gelu":
                return self._ops.gelu(value, "ERF")
            case "gelu_new" | "gelu_pytorch_tanh":
                return self._ops.gelu(value, "TANH")
            case _:
                return self._ops.relu(value)

    def _linear(self, names: list[str], value: Node, inputs: int, outputs: int) -> Node:
        """One product with the matrices of all `names` on top of each other, and their biases."""
        bias = np.concatenate([self._tensor(name + ".bias", outputs) for name in names])
        product = self._ops.matmul(value, self._matrix(names, inputs, outputs), False, True)
        return self._ops.add(product, self._ops.constant(bias))

    def _matrix(self, names: list[str], inputs: int, outputs: int) -> Node:
        ops = self._ops
        full = [f"{self._prefix}{name}.weight" for name in names]
        if self._spec.precision == "bf16":
            stored = [self._weights.stored(name, (outputs, inputs), dtype="BF16") for name in full]
            values = np.concatenate(stored).astype(np.uint32) << 16
            return self._ov.op.Constant(self.scratch.hold(values.view(np.float32), np.float32), True)
        integers = np.concatenate([self._weights.stored(name, (outputs, inputs), dtype="I8") for name in full])
        scale = np.concatenate([self._weights.tensor(name + ".scale", (outputs,)) for name in full])[:, np.newaxis]
        if self._arithmetic == "bf16":
            # AMX gains nothing from int8 that its surroundings do not lose: dequantise once.
            return self._ov.op.Constant(self.scratch.hold(integers * scale, np.float32), True)
        # Unsigned with a zero point of 128 is the form that the plugin multiplies in integers.
        held = self.scratch.hold(integers.astype(np.int16) + 128, np.uint8)
        unsigned = ops.convert(self._ov.op.Constant(held, True), np.float32)
        zero = ops.convert(ops.constant(np.full((len(scale), 1), 128, np.uint8)), np.float32)
        return ops.multiply(ops.subtract(unsigned, zero), ops.constant(scale))

    def _precise(self, node: Node) -> Node:
        """Keep a node in float32: for sums and norms that is nearly free, and it takes away half of bf16's error."""
        node.set_rt_info(self._precise_mark, _PRECISE)
        return node

    def _tensor(self, name: str, *shape: int) -> Array:
        return self._weights.tensor(self._prefix + name, shape)

    def _integers(self, *values: int) -> Node:
        return self._ops.constant(np.array(values, np.int64))

    def _integer(self, value: int) -> Node:
        return self._ops.constant(np.int64(value))

"""The BERT encoder as an ONNX graph, down to the pooled vector, from config.json and the weights.

ONNX Runtime's fused operators are written directly, so no optimiser has to find them and the graph runs as it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ephemeralml.errors import ModelError
from ephemeralml.inference import protobuf
from ephemeralml.inference.weights import Array, Weights, encoder_prefix
from ephemeralml.package.model import ModelSpec, positive_int

_MASKED: Final = float(np.finfo(np.float32).min)


@dataclass(frozen=True, slots=True, kw_only=True)
class BertConfig:
    """The sizes of one encoder, under config.json's own names."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    hidden_act: str

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> BertConfig:
        """Read config.json. Raises `ModelError` naming the value that makes no sense."""
        sizes = {
            key: positive_int(config, key)
            for key in (
                "hidden_size",
                "num_hidden_layers",
                "num_attention_heads",
                "intermediate_size",
                "vocab_size",
                "max_position_embeddings",
                "type_vocab_size",
            )
        }
        if sizes["hidden_size"] % sizes["num_attention_heads"]:
            raise ModelError("config.json: hidden_size is not a multiple of num_attention_heads", code="model.config")
        epsilon = config.get("layer_norm_eps", 1e-12)
        if not isinstance(epsilon, float) or not 0 < epsilon < 1:
            raise ModelError("config.json: layer_norm_eps is not between 0 and 1", code="model.config")
        return cls(**sizes, layer_norm_eps=epsilon, hidden_act=config.get("hidden_act", "gelu"))


@dataclass(frozen=True, slots=True)
class Graph:
    """A ModelProto and the weights it refers to by name, views of the file where they can be.

    Inputs ``ids`` and ``mask``, both int32 (texts, tokens); output ``vectors``, float32 (texts, hidden_size).
    `matrices` names the weights that the runtime packs; `release` gives their memory back and names those it gave.
    """

    model: bytes
    weights: Mapping[str, Array]
    matrices: frozenset[str]
    release: Callable[[], frozenset[str]]


def build_graph(config: BertConfig, spec: ModelSpec, weights: Weights) -> Graph:
    """The whole encoder with the spec's pooling. Raises `ModelError` for a tensor missing or of another shape."""
    builder = _Builder(config, weights)
    hidden = builder.embeddings()
    for index in range(config.num_hidden_layers):
        hidden = builder.layer(index, hidden)
    builder.pool(hidden, spec)
    inputs = [protobuf.value(name, protobuf.INT32, ["texts", "tokens"]) for name in ("ids", "mask")]
    output = protobuf.value("vectors", protobuf.FLOAT, ["texts", config.hidden_size])
    references = [protobuf.external(name, array) for name, array in builder.weights.items()]
    model = protobuf.model(
        nodes=builder.nodes, initializers=builder.constants + references, inputs=inputs, outputs=[output]
    )
    return Graph(model, builder.weights, frozenset(builder.matrices), builder.release)


class _Builder:
    """Collects nodes and weights; every method returns the name of the tensor it computes."""

    def __init__(self, config: BertConfig, weights: Weights) -> None:
        self.nodes: list[bytes] = []
        self.constants: list[bytes] = []
        self.weights: dict[str, Array] = {}
        # By their names in the graph, those in the file.
        self.matrices: dict[str, str] = {}
        self._config = config
        self._source = weights
        self._prefix = encoder_prefix(weights)

    def release(self) -> frozenset[str]:
        """Give back, or overwrite, every matrix that can be; returns their names in the graph."""
        given = set()
        for name, stored in self.matrices.items():
            if self._source.holds(self.weights[name]):
                if self._source.release(stored):
                    given.add(name)
            else:
                # A converted copy: as zeros it shows in the engine's probe whether anybody still reads it.
                self.weights[name][:] = 0
                given.add(name)
        return frozenset(given)

    def embeddings(self) -> str:
        config, size = self._config, self._config.hidden_size
        table = "embeddings.{}_embeddings.weight"
        positions = self._tensor(table.format("position"), config.max_position_embeddings, size)
        # Single texts only use token type 0, so its row belongs to every position.
        positions = positions + self._tensor(table.format("token_type"), config.type_vocab_size, size)[0]
        words = self._weight("words", self._tensor(table.format("word"), config.vocab_size, size))
        norm = self._norm("embeddings.LayerNorm")
        inputs = ["ids", "", words, self._weight("positions", positions), "", *norm]
        return self._fused("EmbedLayerNormalization", inputs, "embedded", epsilon=config.layer_norm_eps)

    def layer(self, index: int, hidden: str) -> str:
        config, size = self._config, self._config.hidden_size
        name = f"encoder.layer.{index}."
        parts = [name + f"attention.self.{part}" for part in ("query", "key", "value")]
        projected = [self._product(part, hidden, size, size) for part in parts]
        bias = np.concatenate([self._tensor(part + ".bias", size) for part in parts])
        context = self._fused(
            "MultiHeadAttention",
            [*projected, self._weight(name + "qkv.bias", bias), "mask"],
            name + "context",
            num_heads=config.num_attention_heads,
            mask_filter_value=_MASKED,
        )
        attended = self._residual(context, hidden, name + "attention.output", size)
        expanded = self._linear(name + "intermediate.dense", attended, size, config.intermediate_size)
        active = self._activation(expanded)
        return self._residual(active, attended, name + "output", config.intermediate_size)

    def pool(self, hidden: str, spec: ModelSpec) -> None:
        """sentence-transformers' Pooling and Normalize, with their clamps."""
        axis = self._constant("axis", [1])
        if spec.pooling == "cls":
            first = self._plain("Gather", [hidden, self._constant("first", [0])], "first_token", axis=1)
            vectors = self._plain("Squeeze", [first, axis], "cls")
        else:
            mask = self._plain("Cast", ["mask"], "float_mask", to=protobuf.FLOAT)
            count = self._plain("ReduceSum", [mask, axis], "count", keepdims=1)
            total = self._plain("MatMul", [self._plain("Unsqueeze", [mask, axis], "row_mask"), hidden], "row_total")
            total = self._plain("Squeeze", [total, axis], "total")
            count = self._plain("Max", [count, self._constant("least_count", [1e-9])], "clamped_count")
            vectors = self._plain("Div", [total, count], "mean")
        if spec.normalize:
            length = self._plain("ReduceL2", [vectors, axis], "length", keepdims=1)
            length = self._plain("Max", [length, self._constant("least_length", [1e-12])], "clamped_length")
            vectors = self._plain("Div", [vectors, length], "unit")
        self._plain("Identity", [vectors], "vectors")

    def _residual(self, value: str, skip: str, name: str, inputs: int) -> str:
        projected = self._linear(name + ".dense", value, inputs, self._config.hidden_size)
        total = self._plain("Add", [projected, skip], name + ".sum")
        # The runtime's fused form of both works element by element: six times slower than the two apart.
        norm = self._norm(name + ".LayerNorm")
        return self._plain("LayerNormalization", [total, *norm], name, axis=-1, epsilon=self._config.layer_norm_eps)

    def _linear(self, name: str, value: str, inputs: int, outputs: int) -> str:
        bias = self._weight(name + ".bias", self._tensor(name + ".bias", outputs))
        return self._plain("Add", [self._product(name, value, inputs, outputs), bias], name + ".biased")

    def _product(self, name: str, value: str, inputs: int, outputs: int) -> str:
        # torch keeps Linear weights as (out, in): taken as they lie, the runtime packs them for its kernels.
        weight = self._weight(name + ".weight", self._tensor(name + ".weight", outputs, inputs))
        self.matrices[weight] = self._prefix + weight
        return self._fused("FusedMatMul", [value, weight], name, transB=1)

    def _activation(self, value: str) -> str:
        match self._config.hidden_act:
            case "gelu":
                return self._fused("Gelu", [value], value + ".active")
            case "gelu_new" | "gelu_pytorch_tanh":
                return self._fused("FastGelu", [value], value + ".active")
            case _:
                return self._plain("Relu", [value], value + ".active")

    def _norm(self, name: str) -> list[str]:
        # The oldest BERT files call weight and bias gamma and beta.
        old = f"{self._prefix}{name}.gamma" in self._source
        names = ("gamma", "beta") if old else ("weight", "bias")
        return [
            self._weight(f"{name}.{part}", self._tensor(f"{name}.{part}", self._config.hidden_size)) for part in names
        ]

    def _tensor(self, name: str, *shape: int) -> Array:
        return self._source.tensor(self._prefix + name, shape)

    def _weight(self, name: str, array: Array) -> str:
        self.weights[name] = np.ascontiguousarray(array)
        return name

    def _constant(self, name: str, values: Sequence[int] | Sequence[float]) -> str:
        self.constants.append(protobuf.constant(name, values))
        return name

    def _plain(self, op: str, inputs: Sequence[str], output: str, **attributes: protobuf.Attribute) -> str:
        self.nodes.append(protobuf.node(op, inputs, [output], attributes))
        return output

    def _fused(self, op: str, inputs: Sequence[str], output: str, **attributes: protobuf.Attribute) -> str:
        # The embedding operator insists on a second output, its mask index.
        outputs = [output, "mask_index"] if op == "EmbedLayerNormalization" else [output]
        self.nodes.append(protobuf.node(op, inputs, outputs, attributes, contrib=True))
        return output

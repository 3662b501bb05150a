from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import erf
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer, models

from ephemeralml.errors import EphemeralMLError, ModelError, RequestError, UnsupportedModelError
from ephemeralml.inference import Encoder
from ephemeralml.inference.bert import BertConfig, Graph, build_graph
from ephemeralml.inference.encoder import TOKENS_PER_RUN, group_by_length
from ephemeralml.inference.engine import Engine
from ephemeralml.inference.weights import Weights
from ephemeralml.package.model import CONFIG_FILES, read_model_spec

Float64 = npt.NDArray[np.float64]
VOCABULARY = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "a", "mat", "while", "it", "rained"),
    *("hard", "outside", "##s", "##ing", "##ed", "play", "walk", "dog", ",", ".", "!"),
]
TEXTS = ["the cat sat on the mat .", "", "dogs walked , while it rained", "unknown", "A DOG playing!", "it " * 50]


@dataclass(slots=True)
class TinyBert:
    """A random BERT folder, and what it computes, worked out in float64 from the paper's formulas."""

    pooling: str = "mean"
    normalize: bool = True
    heads: int = 4
    activation: str = "gelu"
    prefix: str = ""
    dtype: str = "F32"
    old_norms: bool = False
    seed: int = 0
    hidden: int = 32
    layers: int = 2
    limit: int = 24
    tensors: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng, size, inner = np.random.default_rng(self.seed), self.hidden, 48

        def put(name: str, *shape: int, around: float = 0.0) -> None:
            values = (around + rng.normal(0, 0.3, shape)).astype(np.float32)
            if self.dtype == "F16":
                values = values.astype(np.float16).astype(np.float32)
            elif self.dtype == "BF16":
                values = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
            self.tensors[name] = values

        def norm(name: str) -> None:
            put(name + ".weight", size, around=1.0)
            put(name + ".bias", size)

        def linear(name: str, inputs: int, outputs: int) -> None:
            put(name + ".weight", outputs, inputs)
            put(name + ".bias", outputs)

        put("embeddings.word_embeddings.weight", len(VOCABULARY), size)
        put("embeddings.position_embeddings.weight", self.limit + 8, size)
        put("embeddings.token_type_embeddings.weight", 2, size)
        norm("embeddings.LayerNorm")
        for layer in range(self.layers):
            name = f"encoder.layer.{layer}."
            for part in ("query", "key", "value"):
                linear(name + "attention.self." + part, size, size)
            linear(name + "attention.output.dense", size, size)
            norm(name + "attention.output.LayerNorm")
            linear(name + "intermediate.dense", size, inner)
            linear(name + "output.dense", inner, size)
            norm(name + "output.LayerNorm")

    def files(self) -> dict[str, bytes]:
        config = {
            "architectures": ["BertModel"], "model_type": "bert", "hidden_act": self.activation,
            "hidden_size": self.hidden, "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "intermediate_size": 48, "vocab_size": len(VOCABULARY), "max_position_embeddings": self.limit + 8,
            "type_vocab_size": 2, "layer_norm_eps": 1e-12,
        }  # fmt: skip
        kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds]
        contents: dict[str, Any] = {
            "config.json": config,
            "modules.json": modules if self.normalize else modules[:2],
            "1_Pooling/config.json": {
                "word_embedding_dimension": self.hidden,
                "pooling_mode_cls_token": self.pooling == "cls",
                "pooling_mode_mean_tokens": self.pooling == "mean",
            },
            "sentence_bert_config.json": {"max_seq_length": self.limit, "do_lower_case": False},
            "tokenizer_config.json": {"do_lower_case": True},
        }
        files = {name: json.dumps(content).encode() for name, content in contents.items()}
        return files | {"vocab.txt": "\n".join(VOCABULARY).encode(), "model.safetensors": self.safetensors()}

    def safetensors(self) -> bytes:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        data = b""
        for key, values in self.tensors.items():
            name = key
            if self.old_norms:
                name = key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            raw = {
                "F32": values.tobytes(),
                "F16": values.astype(np.float16).tobytes(),
                "BF16": (values.view(np.uint32) >> 16).astype(np.uint16).tobytes(),
            }[self.dtype]
            offsets = [len(data), len(data) + len(raw)]
            header[self.prefix + name] = {"dtype": self.dtype, "shape": list(values.shape), "data_offsets": offsets}
            data += raw
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data

    def encoder(self) -> Encoder:
        files = self.files()
        return Encoder.from_buffers(files, spec=read_model_spec(files), threads=1)

    def embed(self, ids: Sequence[int]) -> Float64:
        """One text's vector."""
        t = {name: values.astype(np.float64) for name, values in self.tensors.items()}

        def norm(name: str, x: Float64) -> Float64:
            centred = x - x.mean(-1, keepdims=True)
            scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
            return np.asarray(scaled * t[name + ".weight"] + t[name + ".bias"])

        def linear(name: str, x: Float64) -> Float64:
            return np.asarray(x @ t[name + ".weight"].T + t[name + ".bias"])

        x = t["embeddings.word_embeddings.weight"][list(ids)]
        x = x + t["embeddings.position_embeddings.weight"][: len(ids)] + t["embeddings.token_type_embeddings.weight"][0]
        x = norm("embeddings.LayerNorm", x)
        for layer in range(self.layers):
            name = f"encoder.layer.{layer}."
            q, k, v = (
                linear(name + "attention.self." + part, x).reshape(len(ids), self.heads, -1).transpose(1, 0, 2)
                for part in ("query", "key", "value")
            )
            scores = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1]))
            context = (scores / scores.sum(-1, keepdims=True)) @ v
            context = context.transpose(1, 0, 2).reshape(len(ids), -1)
            x = norm(name + "attention.output.LayerNorm", x + linear(name + "attention.output.dense", context))
            inner = activate(self.activation, linear(name + "intermediate.dense", x))
            x = norm(name + "output.LayerNorm", x + linear(name + "output.dense", inner))
        vector = x[0] if self.pooling == "cls" else x.mean(0)
        return np.asarray(vector / np.linalg.norm(vector) if self.normalize else vector)


def activate(name: str, x: Float64) -> Float64:
    if name == "relu":
        return np.maximum(x, 0)
    if name == "gelu":
        return np.asarray(x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2))))
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


@pytest.mark.parametrize(
    "model",
    [
        TinyBert(),
        TinyBert(pooling="cls", seed=1),
        TinyBert(normalize=False, seed=2),
        TinyBert(pooling="cls", normalize=False, prefix="bert.", seed=3),
        TinyBert(prefix="model.", dtype="F16", seed=4),
        TinyBert(dtype="BF16", heads=1, seed=5),
        TinyBert(heads=8, activation="relu", seed=6),
        TinyBert(activation="gelu_new", heads=2, old_norms=True, seed=7),
        TinyBert(activation="gelu_pytorch_tanh", hidden=24, heads=3, layers=3, seed=8),
    ],
    ids=lambda model: f"{model.pooling}-{model.activation}-{model.dtype}-{model.heads}-{model.prefix}{model.normalize}",
)
def test_equals_an_independent_implementation(model: TinyBert) -> None:
    encoder = model.encoder()
    ids = encoder.tokenize(TEXTS)
    expected = np.stack([model.embed(tokens) for tokens in ids])
    together = encoder.encode(TEXTS)
    alone = np.stack([encoder.encode(text) for text in TEXTS])
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(alone, expected, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    return TinyBert().encoder()


def test_tokens_are_bert_s_and_cut_at_the_limit(tiny: Encoder) -> None:
    ids = tiny.tokenize(["The cats, PLAYED", "", "it " * 50])
    words = [VOCABULARY[token] for token in ids[0]]
    assert words == ["[CLS]", "the", "cat", "##s", ",", "play", "##ed", "[SEP]"]
    assert ids[1] == [VOCABULARY.index("[CLS]"), VOCABULARY.index("[SEP]")]
    assert len(ids[2]) == tiny.max_sequence_length == 24
    assert ids[2][-1] == VOCABULARY.index("[SEP]")


def test_shapes(tiny: Encoder) -> None:
    assert tiny.encode("the cat").shape == (tiny.dimension,) == (32,)
    assert tiny.encode(["the cat"]).shape == (1, 32)
    assert tiny.encode([]).shape == (0, 32)
    assert tiny.encode([]).dtype == np.float32


def test_order_is_kept_over_many_runs(tiny: Encoder) -> None:
    texts = ["cat " * (index * 7 % 23) for index in range(300)]
    assert sum(map(len, tiny.tokenize(texts))) > 2 * TOKENS_PER_RUN
    alone = {text: tiny.encode(text) for text in set(texts)}
    np.testing.assert_allclose(tiny.encode(texts), np.stack([alone[text] for text in texts]), atol=1e-5)


@pytest.mark.parametrize(
    ("texts", "code"),
    [
        (["a", 1], "request.type"),
        ([None], "request.type"),
        ([b"a"], "request.type"),
        (b"a", "request.type"),
        (3, "request.type"),
        ({"a"}, "request.type"),
        (["ok", "\ud800"], "request.unicode"),
        ("\udfff secret", "request.unicode"),
    ],
)
def test_what_is_not_text_is_refused_and_not_repeated(tiny: Encoder, texts: Any, code: str) -> None:
    with pytest.raises(RequestError) as caught:
        tiny.encode(texts)
    assert caught.value.code == code
    assert "secret" not in str(caught.value)


def test_lower_case_asked_for_outside_the_tokenizer() -> None:
    files = TinyBert().files() | {"tokenizer_config.json": b'{"do_lower_case": false}'}
    spec = read_model_spec(files)
    cased = Encoder.from_buffers(files, spec=spec, threads=1)
    files["sentence_bert_config.json"] = b'{"max_seq_length": 24, "do_lower_case": true}'
    lowered = Encoder.from_buffers(files, spec=spec, threads=1)
    unknown = VOCABULARY.index("[UNK]")
    assert cased.tokenize(["THE cat"]) == [[2, unknown, 6, 3]]
    assert lowered.tokenize(["THE cat"]) == [[2, 5, 6, 3]]


def test_published_padding_and_truncation_are_overridden(tiny: Encoder) -> None:
    files = TinyBert().files()
    published = Tokenizer.from_str(tiny._tokenizer._tokenizer.to_str())
    published.enable_padding(length=16)
    published.enable_truncation(4)
    files["tokenizer.json"] = published.to_str().encode()
    del files["vocab.txt"]
    encoder = Encoder.from_buffers(files, spec=read_model_spec(files), threads=1)
    assert encoder.tokenize(TEXTS) == tiny.tokenize(TEXTS)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, raw in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)
    return folder


def test_from_folder_equals_from_buffers(tiny: Encoder, tmp_path: Path) -> None:
    encoder = Encoder.from_folder(write(tmp_path, TinyBert().files()))
    assert encoder.spec == tiny.spec
    np.testing.assert_allclose(encoder.encode(TEXTS), tiny.encode(TEXTS), atol=1e-5)


def test_the_buffers_are_not_needed_after_loading() -> None:
    files: dict[str, bytearray] = {name: bytearray(raw) for name, raw in TinyBert().files().items()}
    encoder = Encoder.from_buffers(files, spec=read_model_spec(files), threads=1)
    before = encoder.encode(TEXTS)
    for buffer in files.values():
        buffer[:] = bytes(len(buffer))
    np.testing.assert_array_equal(encoder.encode(TEXTS), before)


@pytest.mark.parametrize("missing", ["config.json", "1_Pooling/config.json", "model.safetensors", "vocab.txt"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    files = TinyBert().files()
    del files[missing]
    with pytest.raises(ModelError, match=missing) as caught:
        Encoder.from_folder(write(tmp_path, files))
    assert caught.value.code == "model.missing"


def test_a_missing_or_unreadable_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        Encoder.from_folder(tmp_path / "nowhere")
    write(tmp_path, TinyBert().files())

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ModelError, match="Permission denied"):
        Encoder.from_folder(tmp_path)


def test_an_unsupported_architecture_is_named(tmp_path: Path) -> None:
    files = TinyBert().files() | {"config.json": b'{"architectures": ["MPNetModel"], "model_type": "mpnet"}'}
    with pytest.raises(UnsupportedModelError, match="MPNetModel"):
        Encoder.from_folder(write(tmp_path, files))


def altered(**changes: Any) -> dict[str, bytes]:
    files = TinyBert().files()
    return files | {"config.json": json.dumps(json.loads(files["config.json"]) | changes).encode()}


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (altered(num_attention_heads=5), "num_attention_heads"),
        (altered(num_attention_heads=0), "num_attention_heads"),
        (altered(layer_norm_eps=0), "layer_norm_eps"),
        (altered(layer_norm_eps=2.0), "layer_norm_eps"),
        (altered(num_hidden_layers=3), "encoder.layer.2"),
        (altered(num_hidden_layers=2**31 - 1), "encoder.layer.2"),
        (altered(intermediate_size=47), "intermediate"),
        (altered(vocab_size=len(VOCABULARY) + 1), "word_embeddings"),
        (altered(vocab_size=len(VOCABULARY) - 1), "word_embeddings"),
        (TinyBert().files() | {"vocab.txt": TinyBert().files()["vocab.txt"] + b"\nextra"}, "vocab_size"),
        (altered(max_position_embeddings=8), "specification"),
        (TinyBert().files() | {"model.safetensors": b"12345678"}, "damaged"),
        (TinyBert().files() | {"tokenizer.json": b"{}"}, "tokenizer"),
        (TinyBert().files() | {"vocab.txt": b"\xff"}, "tokenizer"),
        (TinyBert().files() | {"vocab.txt": b"the\ncat"}, "special tokens"),
        (TinyBert().files() | {"tokenizer_config.json": b"["}, "tokenizer_config.json"),
        (TinyBert().files() | {"tokenizer_config.json": b'{"strip_accents": 3}'}, "tokenizer"),
    ],
)
def test_files_that_do_not_fit_each_other(files: dict[str, bytes], named: str) -> None:
    spec = read_model_spec(TinyBert().files())
    with pytest.raises(ModelError, match=named):
        Encoder.from_buffers(files, spec=spec, threads=1)


def test_a_tokenizer_without_special_tokens_is_refused() -> None:
    bare = Tokenizer(models.WordPiece({"[UNK]": 0, "the": 1}, unk_token="[UNK]")).to_str().encode()
    files = TinyBert().files() | {"tokenizer.json": bare}
    with pytest.raises(ModelError, match="special tokens"):
        Encoder.from_buffers(files, spec=read_model_spec(files), threads=1)


def test_an_oversized_tokenizer_is_refused() -> None:
    files = TinyBert().files() | {"tokenizer.json": bytes((64 << 20) + 1)}
    with pytest.raises(ModelError, match="tokenizer is larger"):
        Encoder.from_buffers(files, spec=read_model_spec(files), threads=1)


def test_what_the_engine_refuses_is_typed(tiny: Encoder) -> None:
    with pytest.raises(EphemeralMLError) as caught:
        tiny.run([[10**6]])
    assert caught.value.code == "inference.engine"
    with pytest.raises(EphemeralMLError):
        tiny.run([[2] * 100])


def test_a_graph_the_runtime_cannot_read_is_a_model_error() -> None:
    with pytest.raises(ModelError) as caught:
        Engine(Graph(b"not a model", {}, frozenset(), frozenset))
    assert caught.value.code == "model.engine"


def test_groups_keep_to_the_budget_and_to_similar_lengths() -> None:
    lengths = [256, 3, 3, 200, 33, 90, 5, 2000, 31, 64] + [128] * 20
    groups = group_by_length(lengths, budget=512)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        longest, shortest = lengths[group[-1]], lengths[group[0]]
        assert longest == max(lengths[index] for index in group)
        assert len(group) == 1 or len(group) * longest <= 512
        assert longest <= max(2 * shortest, 32)
    assert group_by_length([]) == []
    assert group_by_length([1] * 512, budget=512) == [list(range(512))]


def test_golden(minilm: Path, golden: Path) -> None:
    texts = json.loads((golden / "minilm_texts.json").read_text())
    expected = np.load(golden / "minilm_embeddings.npy")
    encoder = Encoder.from_folder(minilm)
    assert (encoder.dimension, encoder.max_sequence_length) == (384, 256)
    assert len(texts) == len(expected) == 64
    together = encoder.encode(texts)
    alone = np.stack([encoder.encode(text) for text in texts])
    assert np.abs(together - expected).max() <= 1e-5
    assert np.abs(alone - expected).max() <= 1e-5
    assert np.abs(encoder.encode(texts[::-1]) - expected[::-1]).max() <= 1e-5


def test_minilm_s_vocabulary_file_gives_the_published_tokens(minilm: Path, golden: Path) -> None:
    texts = json.loads((golden / "minilm_texts.json").read_text())
    names = [*CONFIG_FILES, "model.safetensors", "vocab.txt", "tokenizer.json"]
    files = {name: (minilm / name).read_bytes() for name in names if (minilm / name).is_file()}
    spec = read_model_spec(files)
    published = Encoder.from_buffers(files, spec=spec)
    del files["tokenizer.json"]
    assert Encoder.from_buffers(files, spec=spec).tokenize(texts) == published.tokenize(texts)


def test_an_engine_that_reads_what_it_should_have_packed_is_refused(tiny_model: Path) -> None:
    """Else a release of the runtime that packs less would give wrong vectors without a word."""
    files = {name: (tiny_model / name).read_bytes() for name in ("config.json", "model.safetensors")}
    folder = {path.relative_to(tiny_model).as_posix(): path.read_bytes() for path in tiny_model.rglob("*.json")}
    weights = Weights(bytearray(files["model.safetensors"]))
    graph = build_graph(BertConfig.from_json(json.loads(files["config.json"])), read_model_spec(folder), weights)
    everything = np.frombuffer(weights._data, "<f4")

    def release() -> frozenset[str]:
        everything[:] = 0
        return graph.matrices

    with pytest.raises(ModelError) as caught:
        Engine(replace(graph, release=release))
    assert caught.value.code == "model.engine"

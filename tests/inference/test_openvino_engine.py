from __future__ import annotations

import importlib.util
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ephemeralml.errors import EphemeralMLError, ModelError, UnsupportedModelError
from ephemeralml.inference import Encoder
from ephemeralml.inference.bert import BertConfig
from ephemeralml.inference.convert import convert_weights
from ephemeralml.inference.encoder import WEIGHTS_FILE
from ephemeralml.inference.openvino_engine import OpenVinoEngine, _precision, cpu_flags, load_openvino
from ephemeralml.inference.weights import Array, Weights
from ephemeralml.package.model import CONFIG_FILES, Buffer, ModelSpec, read_model_spec

# Importing it here would load what the engine keeps out.
pytestmark = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="the extra `fast` is missing")
AMX = "amx_bf16" in cpu_flags()
ARITHMETICS = [pytest.param("bf16", marks=pytest.mark.skipif(not AMX, reason="this CPU has no AMX")), "fp32"]
TEXTS = ["hello world.", "", "a", "the quick brown fox, again and again!" * 10, "another, shorter, one", "bcd " * 9]


def read(folder: Path, precision: str, **config: Any) -> dict[str, Buffer]:
    files: dict[str, Buffer] = {
        name: (folder / name).read_bytes()
        for name in (*CONFIG_FILES, "tokenizer.json", WEIGHTS_FILE)
        if (folder / name).is_file()
    }
    files["config.json"] = json.dumps(json.loads(bytes(files["config.json"])) | config).encode()
    files[WEIGHTS_FILE] = convert_weights(files[WEIGHTS_FILE], precision=precision)
    return files


def build(files: dict[str, Buffer], precision: str, *, arithmetic: str | None = None, **spec: Any) -> Encoder:
    """An encoder whose engine runs in `arithmetic`."""
    full = ModelSpec(**(vars_of(read_model_spec(files, precision=precision)) | spec))
    encoder = Encoder.from_buffers(files, spec=full, threads=1)
    if arithmetic is not None:
        config = BertConfig.from_json(json.loads(bytes(files["config.json"])))
        engine = OpenVinoEngine(config, full, Weights(files[WEIGHTS_FILE]), threads=1, arithmetic=arithmetic)
        encoder = Encoder(spec=full, tokenizer=encoder._tokenizer, engine=engine, grid=engine.grid)
    return encoder


def vars_of(spec: ModelSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in spec.__dataclass_fields__}


def cosines(left: Array, right: Array) -> npt.NDArray[np.float64]:
    dots = (left.astype(np.float64) * right).sum(1)
    return np.asarray(dots / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1))


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [True, False])
def test_equals_onnx_runtime_with_the_same_weights(
    tiny_model: Path, activation: str, pooling: str, normalize: bool
) -> None:
    files = read(tiny_model, "bf16", hidden_act=activation)
    rules: dict[str, Any] = {"pooling": pooling, "normalize": normalize}
    expected = build(files, "fp32", **rules).encode(TEXTS)
    encoder = build(files, "bf16", arithmetic="fp32", **rules)
    assert encoder.precision == "fp32"
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_near_fp32_whatever_it_is_batched_with(tiny_model: Path, precision: str, arithmetic: str) -> None:
    encoder = build(read(tiny_model, precision), precision, arithmetic=arithmetic)
    exact = Encoder.from_folder(tiny_model).encode(TEXTS)
    together = encoder.encode(TEXTS)
    alone = np.stack([encoder.encode(text) for text in TEXTS])
    # Random weights of this size round worse than a trained model's.
    least = 0.999 if precision == "bf16" else 0.99
    assert cosines(together, exact).min() >= least
    assert cosines(alone, exact).min() >= least
    assert cosines(together, alone).min() >= 0.999
    assert cosines(encoder.encode(TEXTS[::-1])[::-1], together).min() >= 0.999
    assert encoder.precision == {"bf16": arithmetic, "int8": "int8"}[precision]


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_old_names_and_a_prefix(tiny_model: Path, precision: str) -> None:
    files = read(tiny_model, "fp32")
    raw = bytes(files[WEIGHTS_FILE])
    size = int.from_bytes(raw[:8], "little")
    table = json.loads(raw[8 : 8 + size])
    renamed = {
        "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): entry
        for name, entry in table.items()
    }
    text = json.dumps(renamed).encode()
    text += b" " * (-len(text) % 8)
    old = convert_weights(len(text).to_bytes(8, "little") + text + raw[8 + size :], precision=precision)
    plain = build(read(tiny_model, precision), precision).encode(TEXTS)
    np.testing.assert_array_equal(build(files | {WEIGHTS_FILE: old}, precision).encode(TEXTS), plain)


@pytest.fixture(scope="module")
def bf16(tiny_model: Path) -> Encoder:
    return Encoder.from_folder(tiny_model, precision="bf16", threads=2)


def test_only_shapes_of_the_grid_are_seen(bf16: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = bf16._engine
    assert isinstance(engine, OpenVinoEngine)
    seen: set[tuple[int, ...]] = set()
    infer = engine._infer

    def watch(rows: Array, bias: Array, pool: Array) -> Array:
        seen.add(rows.shape[:2])
        return infer(rows, bias, pool)

    monkeypatch.setattr(engine, "_infer", watch)
    rng = np.random.default_rng(0)
    for _ in range(200):
        lengths = rng.integers(2, 49, int(rng.integers(1, 90)))
        vectors = bf16.run([[2] * int(length) for length in lengths])
        assert np.isfinite(vectors).all()
    assert len(seen) > 5
    assert seen <= engine.grid.shapes


@pytest.mark.parametrize("model", ["tiny_model", "minilm"])
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_every_shape_has_the_whole_weights(
    request: pytest.FixtureRequest, model: str, precision: str, arithmetic: str
) -> None:
    engine = build(read(request.getfixturevalue(model), precision), precision, arithmetic=arithmetic)._engine
    assert isinstance(engine, OpenVinoEngine)
    reference = engine._probe((1, 16))
    for shape in sorted(engine.grid.shapes):
        assert np.linalg.norm(engine._probe(shape) - reference) <= 0.02 * np.linalg.norm(reference)


def test_threads_share_it(bf16: Encoder) -> None:
    texts = [f"{'a b c ' * index}." for index in range(12)]
    alone = [bf16.encode(text) for text in texts]
    with ThreadPoolExecutor(6) as pool:
        for expected, found in zip(alone * 8, pool.map(bf16.encode, texts * 8), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_what_the_engine_refuses_is_typed(bf16: Encoder) -> None:
    engine = bf16._engine
    for ids in ([[10**6]], [[-1]], [[2] * 100]):
        with pytest.raises(EphemeralMLError) as caught:
            engine.run(np.array(ids, np.int32), np.ones((1, len(ids[0])), np.int32))
        assert caught.value.code == "inference.engine"
    assert bf16.encode("still there").shape == (32,)


def test_weights_must_be_of_the_package_s_precision(tiny_model: Path) -> None:
    for stored, asked in (("fp32", "bf16"), ("fp32", "int8"), ("bf16", "int8"), ("int8", "bf16"), ("int8", "fp32")):
        with pytest.raises(ModelError, match=r"precision asks for|unsupported weight type"):
            build(read(tiny_model, stored), asked)
    with pytest.raises(UnsupportedModelError, match="fp8"):
        Encoder.from_folder(tiny_model, precision="fp8")


@pytest.mark.parametrize("name", ["embeddings.word_embeddings", "encoder.layer.1.intermediate.dense"])
def test_scales_must_fit_their_rows(tiny_model: Path, name: str) -> None:
    files = read(tiny_model, "int8")
    raw = bytes(files[WEIGHTS_FILE])
    size = int.from_bytes(raw[:8], "little")
    table = json.loads(raw[8 : 8 + size])
    table[f"{name}.weight.scale"]["shape"].append(1)
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    files[WEIGHTS_FILE] = len(text).to_bytes(8, "little") + text + raw[8 + size :]
    with pytest.raises(ModelError, match="scale"):
        build(files, "int8")


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ModelError, match=r"ephemeralml\[fast\]") as caught:
        Encoder.from_folder(tiny_model, precision="bf16")
    assert caught.value.code == "model.engine"


def test_nothing_that_reports_home_is_loaded() -> None:
    load_openvino()
    assert not any(name.startswith(("openvino_telemetry", "openvino.tools")) for name in sys.modules)


def test_kernels_are_named_by_what_they_compute_in() -> None:
    assert _precision(["brgemm_avx512_amx_bf16", "brgemm_avx512_bf16"]) == "bf16"
    assert _precision(["gemm_mlas_f32", "brgconv_avx512_1x1_f32"]) == "fp32"
    # Partly narrow is narrow.
    assert _precision(["brgemm_avx512_amx_bf16", "gemm_mlas_f32"]) == "bf16"
    for kernels in ([], ["undef"], ["brgemm_avx512_amx_i8", "gemm_mlas_f32"]):
        with pytest.raises(ModelError):
            _precision(kernels)


def test_a_cpu_without_amx_runs_fp32(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    monkeypatch.setattr("ephemeralml.inference.openvino_engine.cpu_flags", frozenset)
    assert Encoder.from_folder(tiny_model, precision="bf16").precision == "fp32"
    assert Encoder.from_folder(tiny_model, precision="int8").precision == "int8"


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.9999), ("int8", 0.99)])
def test_golden(minilm: Path, golden: Path, arithmetic: str, precision: str, least: float) -> None:
    texts = json.loads((golden / "minilm_texts.json").read_text())
    expected = np.load(golden / "minilm_embeddings.npy")
    encoder = build(read(minilm, precision), precision, arithmetic=arithmetic)
    for vectors in (encoder.encode(texts), np.stack([encoder.encode(text) for text in texts])):
        assert cosines(vectors, expected).min() >= least
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

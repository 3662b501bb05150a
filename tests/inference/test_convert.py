from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import ModelError, UnsupportedModelError
from ephemeralml.inference.convert import convert_weights, to_bf16, to_int8
from ephemeralml.inference.weights import Weights

WORDS = "embeddings.word_embeddings.weight"
QUERY = "encoder.layer.0.attention.self.query.weight"


def file(tensors: Mapping[str, npt.NDArray[Any]], dtype: str = "F32") -> bytes:
    header, data = {}, b""
    for name, values in tensors.items():
        raw = values.tobytes()
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def float32(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**126), max_value=2.0**126))
def test_bf16_is_the_nearest(number: float) -> None:
    value = np.array([number], np.float32)
    [bits] = to_bf16(value)
    error = abs(float(float32(to_bf16(value))[0]) - number)
    for other in (bits - 1 if bits & 0x7FFF else bits, bits + 1):
        neighbour = float(float32(np.array([other], np.uint16))[0])
        assert error <= abs(neighbour - number)


def test_bf16_rounds_ties_to_even() -> None:
    ties = np.array([0x3F808000, 0x3F818000, 0xBF808000], np.uint32).view(np.float32)
    assert to_bf16(ties).tolist() == [0x3F80, 0x3F82, 0xBF80]


def test_int8_rows_have_their_own_scale() -> None:
    sizes = np.array([[1], [100], [1e-6], [0], [3]], np.float32)
    values = np.random.default_rng(0).normal(0, 1, (5, 40)).astype(np.float32) * sizes
    integers, scale = to_int8(values)
    assert integers.dtype == np.int8
    assert scale.shape == (5,)
    assert np.abs(integers).max(axis=1).tolist() == [127, 127, 127, 0, 127]
    assert (np.abs(integers * scale[:, np.newaxis] - values) <= scale[:, np.newaxis] * 0.5001).all()


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "F32"), ("bf16", "BF16"), ("int8", "I8")])
def test_matrices_and_words_are_converted_and_the_rest_is_float32(tiny_model: Path, precision: str, dtype: str) -> None:
    raw = (tiny_model / "model.safetensors").read_bytes()
    converted = convert_weights(raw, precision=precision)
    assert converted == convert_weights(bytearray(raw), precision=precision)
    before, after = Weights(raw).described(), dict(Weights(converted).described())
    for name, (_, shape) in before.items():
        narrow = name == WORDS or (name.startswith("encoder.") and len(shape) == 2)
        assert after.pop(name) == (dtype if narrow else "F32", shape)
        if narrow and dtype == "I8":
            assert after.pop(name + ".scale") == ("F32", shape[:1])
    assert not after


def test_what_the_encoder_does_not_use_stays_out() -> None:
    ones = np.ones((2, 2), np.float32)
    names = [f"bert.{WORDS}", f"bert.{QUERY}", "bert.pooler.dense.weight", "cls.predictions.bias", QUERY]
    raw = file(dict.fromkeys(names, ones))
    assert list(Weights(convert_weights(raw, precision="bf16")).described()) == names[:2]


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precisions_are_sources_too(dtype: str) -> None:
    values = np.array([[1.5, -2.0], [0.25, 127.0]], np.float32)
    raw = values.astype(np.float16) if dtype == "F16" else to_bf16(values)
    weights = Weights(convert_weights(file({WORDS: raw, QUERY: raw}, dtype), precision="bf16"))
    np.testing.assert_array_equal(float32(weights.stored(QUERY, (2, 2), dtype="BF16")), values)


def test_stored_tensors_have_the_type_asked_for() -> None:
    weights = Weights(file({"a": np.ones((2, 2), np.float32)}))
    with pytest.raises(ModelError, match="is F32"):
        weights.stored("a", (2, 2), dtype="I8")


def test_refusals() -> None:
    good = np.ones((2, 2), np.float32)
    with pytest.raises(UnsupportedModelError, match="fp16"):
        convert_weights(file({WORDS: good}), precision="fp16")
    with pytest.raises(ModelError, match="damaged"):
        convert_weights(b"12345678", precision="bf16")
    for bad in (np.nan, np.inf):
        with pytest.raises(ModelError, match="no number"):
            convert_weights(file({WORDS: good * np.float32(bad)}), precision="int8")

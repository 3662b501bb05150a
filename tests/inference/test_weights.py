from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import ModelError, UnsupportedModelError
from ephemeralml.inference.weights import Weights
from ephemeralml.package.model import private_memory


def pack(header: Any, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(dtype: str, shape: Any, begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


VALUES = np.array([[1.5, -2.0], [0.25, 3.0]], np.float32)


def test_float32_is_a_view_of_the_buffer() -> None:
    header = json.dumps({"a": entry("F32", [2, 2], 0, 16)}).encode()
    buffer = bytearray(pack(header + b" " * (-len(header) % 8), VALUES.tobytes()))
    tensor = Weights(buffer).tensor("a", (2, 2))
    buffer[-4:] = struct.pack("<f", 9.0)
    assert tensor.tolist() == [[1.5, -2.0], [0.25, 9.0]]


def test_unaligned_data_is_copied() -> None:
    for padding in range(4):
        header = json.dumps({"a": entry("F32", [2, 2], 0, 16)}).encode() + b" " * padding
        tensor = Weights(pack(header, VALUES.tobytes())).tensor("a", (2, 2))
        assert tensor.flags.aligned
        np.testing.assert_array_equal(tensor, VALUES)


def test_half_precisions_become_float32() -> None:
    half = VALUES.astype(np.float16).tobytes()
    brain = (VALUES.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    header = {"h": entry("F16", [2, 2], 0, 8), "b": entry("BF16", [4], 8, 16), "__metadata__": {"format": "pt"}}
    weights = Weights(pack(header, half + brain))
    np.testing.assert_array_equal(weights.tensor("h", (2, 2)), VALUES)
    np.testing.assert_array_equal(weights.tensor("b", (4,)), VALUES.reshape(4))
    assert weights.tensor("b", (4,)).dtype == np.float32
    assert "h" in weights
    assert "__metadata__" not in weights


def test_asks_for_a_tensor_by_name_shape_and_type() -> None:
    weights = Weights(pack({"a": entry("I64", [1], 0, 8)}, bytes(8)))
    with pytest.raises(ModelError, match="no tensor 'b'"):
        weights.tensor("b", (1,))
    with pytest.raises(ModelError, match="shape"):
        weights.tensor("a", (2,))
    with pytest.raises(UnsupportedModelError, match="I64"):
        weights.tensor("a", (1,))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"1234567",
        struct.pack("<Q", 2**64 - 1) + b"{}",
        struct.pack("<Q", 3) + b"{}",
        pack(b"\xff"),
        pack(b"[" * 100_000),
        pack([]),
        pack({"a": 1}),
        pack({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)),
        pack({"a": entry("F31", [1], 0, 4)}, bytes(4)),
        pack({"a": entry("F32", [1.0], 0, 4)}, bytes(4)),
        pack({"a": entry("F32", [True], 0, 4)}, bytes(4)),
        pack({"a": entry("F32", [-1], 0, 4)}, bytes(4)),
        pack({"a": entry("F32", [1] * 9, 0, 4)}, bytes(4)),
        pack({"a": entry("F32", [2**40, 2**40], 0, 4)}, bytes(4)),
        pack({"a": entry("F32", [1], 4, 0)}, bytes(4)),
        pack({"a": entry("F32", [1], 0, 4)}, bytes(3)),
        pack({"a": entry("F32", [1], 0, 4)}, bytes(5)),
        pack({"a": entry("F32", [1], 1, 5)}, bytes(5)),
        pack({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 0, 4)}, bytes(4)),
        pack({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 5, 9)}, bytes(9)),
        pack({str(i): entry("F32", [0], 0, 0) for i in range(100_001)}),
    ],
)  # fmt: skip
def test_damaged_files(raw: bytes) -> None:
    with pytest.raises(ModelError, match="damaged"):
        Weights(raw)


@given(st.binary(max_size=64), st.integers(0, 200), st.integers(0, 255))
def test_any_bytes_end_in_weights_or_a_model_error(noise: bytes, at: int, byte: int) -> None:
    good = bytearray(pack({"a": entry("F32", [2, 2], 0, 16)}, VALUES.tobytes()))
    good[at % len(good)] = byte
    for raw in (noise, pack(noise), bytes(good)):
        try:
            Weights(raw).tensor("a", (2, 2))
        except ModelError:
            continue


def test_released_memory_reads_as_zeros_and_its_neighbours_stay() -> None:
    values = {name: np.full((3, 1000), number, "<f4") for number, name in enumerate(("a", "b", "c"), 1)}
    header = {
        name: {"dtype": "F32", "shape": [3, 1000], "data_offsets": [12_000 * at, 12_000 * (at + 1)]}
        for at, name in enumerate(values)
    }
    head = json.dumps(header).encode()
    data = len(head).to_bytes(8, "little") + head + b"".join(value.tobytes() for value in values.values())
    mapped = private_memory(len(data))
    mapped.write(data)
    weights = Weights(mapped)
    assert weights.release("b")
    assert (weights.tensor("a", (3, 1000)) == 1).all()
    assert (weights.tensor("c", (3, 1000)) == 3).all()
    middle = weights.tensor("b", (3, 1000))
    assert set(np.unique(middle)) == {0, 2}
    # What is not a map of its own is left alone.
    kept = Weights(data)
    assert not kept.release("b")
    assert (kept.tensor("b", (3, 1000)) == 2).all()

"""Weights in the precision a package asks for: pure numpy, and the same bytes from the same file wherever it runs.

The result is a safetensors file of what the encoder needs and no more. The encoder's matrices and the word table become
BF16 (``bf16``), or I8 with one float32 scale for each row in ``<name>.scale`` (``int8``); all else becomes F32.
"""

from __future__ import annotations

import json
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ephemeralml.errors import ModelError, UnsupportedModelError
from ephemeralml.inference.weights import Array, Weights, encoder_prefix
from ephemeralml.package.model import PRECISIONS, Buffer

WORDS: Final = "embeddings.word_embeddings.weight"
_PARTS: Final = ("embeddings.", "encoder.layer.")
_FLOATS: Final = ("F32", "F16", "BF16")
_TYPES: Final = {"float32": "F32", "uint16": "BF16", "int8": "I8"}


def convert_weights(buffer: Buffer, *, precision: str) -> bytes:
    """A ``model.safetensors`` of fp32, fp16 or bf16 weights, in `precision`.

    Raises `UnsupportedModelError` for an unknown precision, `ModelError` for a damaged file or weights not finite.
    """
    if precision not in PRECISIONS:
        raise UnsupportedModelError(f"unsupported precision: {precision!r:.100}", code="model.unsupported.precision")
    weights = Weights(buffer)
    prefix = encoder_prefix(weights)
    converted: dict[str, npt.NDArray[Any]] = {}
    for name, (dtype, shape) in weights.described().items():
        bare = name.removeprefix(prefix)
        if not name.startswith(prefix) or not bare.startswith(_PARTS) or dtype not in _FLOATS:
            continue
        values = weights.tensor(name, shape)
        if not np.isfinite(values).all():
            raise ModelError(f"model.safetensors: {name!r:.200} holds what is no number", code="model.weights")
        if precision == "fp32" or len(shape) != 2 or (bare.startswith("embeddings.") and bare != WORDS):
            converted[name] = values
        elif precision == "bf16":
            converted[name] = to_bf16(values)
        else:
            converted[name], converted[name + ".scale"] = to_int8(values)
    return _write(converted)


def to_bf16(values: Array) -> npt.NDArray[np.uint16]:
    """Rounded to the nearest bfloat16, ties to even: the upper half of a float32."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def to_int8(values: Array) -> tuple[npt.NDArray[np.int8], Array]:
    """Rows as integers of -127 … 127, and what each row's must be multiplied by."""
    scale = np.abs(values).max(axis=1) / np.float32(127)
    scale[scale == 0] = 1
    return np.rint(values / scale[:, np.newaxis]).clip(-127, 127).astype(np.int8), scale


def _write(tensors: dict[str, npt.NDArray[Any]]) -> bytes:
    header: dict[str, Any] = {}
    position = 0
    # Wide types first: every tensor is aligned, and can be read in place.
    tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].itemsize))
    for name, array in tensors.items():
        end = position + array.nbytes
        header[name] = {"dtype": _TYPES[array.dtype.name], "shape": array.shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    # Data starts at a multiple of 8, as the format asks (https://github.com/huggingface/safetensors#format).
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *(array.tobytes() for array in tensors.values())])

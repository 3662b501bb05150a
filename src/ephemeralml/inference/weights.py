"""safetensors read in place: tensors are views of the caller's buffer, every number in the header is checked first.

The `safetensors` package copies each tensor when it reads from memory. The format is a length, a JSON header and raw
data (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from ephemeralml.errors import ModelError, UnsupportedModelError
from ephemeralml.package.model import Buffer

Array: TypeAlias = npt.NDArray[np.float32]

_MAX_HEADER_BYTES: Final = 16 << 20
_MAX_TENSORS: Final = 100_000
_BITS: Final = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Weights:
    """The tensors of one safetensors buffer, which must stay unchanged while they are used.

    Raises `ModelError` for anything but a well-formed file: known types, sizes that agree with shapes, and data that
    covers the rest of the buffer without a hole or an overlap.
    """

    def __init__(self, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        if len(view) < 8:
            raise _damaged("it is too short")
        size = int.from_bytes(view[:8], "little")
        if size > min(_MAX_HEADER_BYTES, len(view) - 8):
            raise _damaged("its header is longer than allowed")
        self._buffer = buffer
        self._start = 8 + size
        self._data = view[self._start :]
        self._entries = _read_entries(bytes(view[8 : 8 + size]), len(self._data))

    def holds(self, array: npt.NDArray[Any]) -> bool:
        """Whether the array is a view of this buffer."""
        return np.may_share_memory(array, np.frombuffer(self._data, np.uint8))

    def release(self, name: str) -> bool:
        """Give the memory of a tensor back, if the buffer is `private_memory`: it reads as zeros from now on."""
        if not isinstance(self._buffer, mmap.mmap):
            return False
        entry = self._entries[name]
        # Whole pages only: a neighbour may have part of the first and the last.
        start = -(-(self._start + entry.begin) // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (self._start + entry.end) // mmap.PAGESIZE * mmap.PAGESIZE - start
        if length > 0:
            # Or the kernel would fill large pages up with zeros again, whole megabytes for one small page in use.
            with suppress(OSError):
                self._buffer.madvise(mmap.MADV_NOHUGEPAGE)
            self._buffer.madvise(mmap.MADV_DONTNEED, start, length)
        return True

    @property
    def parameters(self) -> int:
        """Numbers of all tensors together."""
        return sum(math.prod(entry.shape) for entry in self._entries.values())

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def tensor(self, name: str, shape: tuple[int, ...]) -> Array:
        """The tensor as float32 of exactly `shape`: a view for F32, a converted copy for F16 and BF16."""
        entry, raw = self._find(name, shape)
        if entry.dtype == "F32":
            # Unaligned data is legal in the format, not in the engine.
            return np.require(np.frombuffer(raw, "<f4"), requirements="A").reshape(shape)
        if entry.dtype == "F16":
            return np.frombuffer(raw, "<f2").astype("<f4").reshape(shape)
        if entry.dtype == "BF16":
            return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4").reshape(shape)
        raise UnsupportedModelError(f"unsupported weight type: {entry.dtype}", code="model.unsupported.dtype")

    def stored(self, name: str, shape: tuple[int, ...], *, dtype: str) -> npt.NDArray[Any]:
        """A view of a BF16 or I8 tensor as the file has it: uint16 (the upper half of a float32) or int8."""
        entry, raw = self._find(name, shape)
        if entry.dtype != dtype:
            raise ModelError(
                f"model.safetensors: {name!r:.200} is {entry.dtype}, the package's precision asks for {dtype}",
                code="model.weights",
            )
        return np.require(np.frombuffer(raw, {"BF16": "<u2", "I8": "i1"}[dtype]), requirements="A").reshape(shape)

    def described(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """Type and shape of every tensor, in the order of their data."""
        entries = sorted(self._entries.items(), key=lambda item: item[1].begin)
        return {name: (entry.dtype, entry.shape) for name, entry in entries}

    def _find(self, name: str, shape: tuple[int, ...]) -> tuple[_Entry, memoryview]:
        if name not in self._entries:
            raise ModelError(f"model.safetensors has no tensor {name!r:.200}", code="model.weights")
        entry = self._entries[name]
        if entry.shape != shape:
            raise ModelError(
                f"model.safetensors: {name!r:.200} has shape {entry.shape!r:.100}, config.json asks for {shape}",
                code="model.weights",
            )
        return entry, self._data[entry.begin : entry.end]


def encoder_prefix(weights: Weights) -> str:
    """What stands before the encoder's names in files saved as BertModel, under a task's head, or wrapped once more."""
    probe = "embeddings.word_embeddings.weight"
    return next((prefix for prefix in ("", "bert.", "model.") if prefix + probe in weights), "")


def _read_entries(header: bytes, size: int) -> Mapping[str, _Entry]:
    try:
        table = json.loads(header)
    except (ValueError, RecursionError):
        raise _damaged("its header is not JSON") from None
    if not isinstance(table, dict):
        raise _damaged("its header is not an object")
    table.pop("__metadata__", None)
    if len(table) > _MAX_TENSORS:
        raise _damaged("it has too many tensors")
    entries = {name: _read_entry(name, item) for name, item in table.items()}
    position = 0
    for entry in sorted(entries.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position:
            raise _damaged("its tensors overlap or leave holes")
        position = entry.end
    if position != size:
        raise _damaged("its data is truncated or too long")
    return entries


def _read_entry(name: str, item: object) -> _Entry:
    match item:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end]} if (
            dtype in _BITS and len(shape) <= 8 and all(_is_size(number) for number in (*shape, begin, end))
        ):
            entry = _Entry(dtype, tuple(cast("list[int]", shape)), cast("int", begin), cast("int", end))
        case _:
            raise _damaged(f"the entry of {name!r:.200} is malformed")
    if math.prod(entry.shape) * _BITS[entry.dtype] != (entry.end - entry.begin) * 8:
        raise _damaged(f"the size of {name!r:.200} does not match its shape")
    return entry


def _is_size(number: object) -> bool:
    return type(number) is int and 0 <= number < 1 << 48


def _damaged(why: str) -> ModelError:
    return ModelError(f"model.safetensors is damaged: {why}", code="model.weights")

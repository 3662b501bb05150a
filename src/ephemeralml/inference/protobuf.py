"""The few ONNX messages a graph needs, written as protobuf (field numbers: onnx.proto3).

The `onnx` package would do the same for 150 ms of import, 15 MB of memory and 29 MB of enclave image.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Attribute: TypeAlias = int | float

NO_FILE: Final = "null"
"""Where external data claims to be: the runtime wants the file to exist, in `NO_FOLDER`."""
NO_FOLDER: Final = "/dev"

FLOAT: Final = 1
INT32: Final = 6
INT64: Final = 7

_IR_VERSION: Final = 10
_OPSET: Final = 18
_CONTRIB_DOMAIN: Final = "com.microsoft"
_EXTERNAL: Final = 1


def node(
    op: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    attributes: Mapping[str, Attribute],
    *,
    contrib: bool = False,
) -> bytes:
    """A NodeProto; an absent optional input is the empty string, `contrib` picks ONNX Runtime's own operators."""
    return b"".join((
        *(_bytes(1, name.encode()) for name in inputs),
        *(_bytes(2, name.encode()) for name in outputs),
        _bytes(4, op.encode()),
        *(_bytes(5, _attribute(name, value)) for name, value in attributes.items()),
        _bytes(7, _CONTRIB_DOMAIN.encode()) if contrib else b"",
    ))  # fmt: skip


def constant(name: str, values: Sequence[int] | Sequence[float]) -> bytes:
    """A one-dimensional TensorProto held in the graph itself: int64 or float32 by the values' type."""
    array = np.asarray(values)
    array = array.astype("<f4" if array.dtype.kind == "f" else "<i8")
    return _tensor(name, array.shape, FLOAT if array.dtype.kind == "f" else INT64) + _bytes(9, array.tobytes())


def external(name: str, array: npt.NDArray[np.float32]) -> bytes:
    """A TensorProto whose float32 data the session is given apart from the graph; its file is never read."""
    location = {"location": NO_FILE, "offset": "0", "length": str(array.nbytes)}
    entries = b"".join(_bytes(13, _bytes(1, k.encode()) + _bytes(2, v.encode())) for k, v in location.items())
    return _tensor(name, array.shape, FLOAT) + entries + _integer(14, _EXTERNAL)


def value(name: str, element: int, shape: Sequence[int | str]) -> bytes:
    """A ValueInfoProto for an input or output; a dimension given by name is free."""
    dims = (_bytes(2, d.encode()) if isinstance(d, str) else _integer(1, d) for d in shape)
    tensor = _integer(1, element) + _bytes(2, b"".join(_bytes(1, dim) for dim in dims))
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, tensor))


def model(
    *, nodes: Iterable[bytes], initializers: Iterable[bytes], inputs: Iterable[bytes], outputs: Iterable[bytes]
) -> bytes:
    """A ModelProto around one graph."""
    fields: Mapping[int, Iterable[bytes]] = {1: nodes, 2: [b"encoder"], 5: initializers, 11: inputs, 12: outputs}
    graph = b"".join(_bytes(number, item) for number, items in fields.items() for item in items)
    opsets = (_integer(2, _OPSET), _bytes(1, _CONTRIB_DOMAIN.encode()) + _integer(2, 1))
    return _integer(1, _IR_VERSION) + _bytes(7, graph) + b"".join(_bytes(8, opset) for opset in opsets)


def _tensor(name: str, shape: Sequence[int], element: int) -> bytes:
    return b"".join(_integer(1, size) for size in shape) + _integer(2, element) + _bytes(8, name.encode())


def _attribute(name: str, value: Attribute) -> bytes:
    label = _bytes(1, name.encode())
    if isinstance(value, float):
        return label + _key(2, 5) + struct.pack("<f", value) + _integer(20, 1)
    return label + _integer(3, value) + _integer(20, 2)


def _bytes(field: int, data: bytes) -> bytes:
    return _key(field, 2) + _varint(len(data)) + data


def _integer(field: int, number: int) -> bytes:
    return _key(field, 0) + _varint(number & 0xFFFF_FFFF_FFFF_FFFF)


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)

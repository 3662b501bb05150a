"""Texts and their vectors as a Parquet file. Needs pyarrow, the extra ``parquet``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import BinaryIO, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow.parquet import ParquetWriter

from ephemeralml.package.manifest import Manifest

_REQUESTS_PER_GROUP: Final = 64
"""8,192 texts in a row group: enough for a reader to work on, and 12 MiB of vectors of 384 numbers in memory."""


def write_parquet(
    file: BinaryIO, answers: Iterable[tuple[Sequence[str], NDArray[np.float32]]], manifest: Manifest
) -> None:
    """The columns ``text`` and ``vector``, neither with nulls; the schema's metadata names the model.

    `answers` are the texts and vectors of each request. Raises OSError.
    """
    vector = pa.list_(pa.field("element", pa.float32(), nullable=False), manifest.spec.dimension)
    schema = pa.schema(
        [pa.field("text", pa.string(), nullable=False), pa.field("vector", vector, nullable=False)],
        metadata={"ephemeralml.model_id": manifest.model_id, "ephemeralml.model_digest": manifest.digest.hex()},
    )
    batches = (
        pa.record_batch(
            [pa.array(texts, pa.string()), pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=vector)],
            schema=schema,
        )
        for texts, vectors in answers
    )
    # No two numbers of a vector are the same, nor most texts: a dictionary of them makes the file larger.
    with ParquetWriter(file, schema, compression="zstd", use_dictionary=False) as writer:
        while group := list(islice(batches, _REQUESTS_PER_GROUP)):
            writer.write_table(pa.Table.from_batches(group))

"""Parquet as pyarrow reads it: the texts and vectors that were given, to the bit, in groups of rows."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyarrow.parquet import ParquetFile, read_table
from samples import make_manifest

from ephemeralml.client.parquet import write_parquet

MANIFEST = make_manifest(dimension=3)
Answer = tuple[list[str], NDArray[np.float32]]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["", "a\0b", "\n\r\u2028", "🦉"]
)
# Any bits at all: subnormal numbers, negative zero, infinities, each NaN.
vector = st.binary(min_size=12, max_size=12)


@st.composite
def answers(draw: st.DrawFn) -> list[Answer]:
    parts = draw(st.lists(st.lists(st.tuples(texts, vector), min_size=1, max_size=5), max_size=5))
    return [
        ([text for text, _ in part], np.frombuffer(b"".join(raw for _, raw in part), "<f4").reshape(-1, 3))
        for part in parts
    ]


def written(parts: list[Answer]) -> io.BytesIO:
    file = io.BytesIO()
    write_parquet(file, parts, MANIFEST)
    file.seek(0)
    return file


@given(parts=answers())
def test_what_was_written_is_read_to_the_bit(parts: list[Answer]) -> None:
    table = read_table(written(parts))
    table.validate(full=True)
    assert table["text"].to_pylist() == [text for part, _ in parts for text in part]
    column = table["vector"].combine_chunks().flatten()
    assert column.to_numpy(zero_copy_only=True).tobytes() == b"".join(vectors.tobytes() for _, vectors in parts)


def test_the_schema_has_no_nulls_and_names_the_model() -> None:
    schema = ParquetFile(written([])).schema_arrow
    assert [(field.name, field.nullable) for field in schema] == [("text", False), ("vector", False)]
    assert schema.field("text").type == pa.string()
    kind = schema.field("vector").type
    assert (kind.value_type, kind.list_size, kind.value_field.nullable) == (pa.float32(), 3, False)
    assert schema.metadata == {
        b"ephemeralml.model_id": MANIFEST.model_id.encode(),
        b"ephemeralml.model_digest": MANIFEST.digest.hex().encode(),
    }


def test_no_more_than_one_group_of_rows_is_kept() -> None:
    file = io.BytesIO()
    before_group: list[int] = []

    def asked() -> Iterator[Answer]:
        for index in range(129):
            if index % 64 == 0:
                before_group.append(file.tell())
            yield [f"{index} a", f"{index} b"], np.ones((2, 3), np.float32)

    write_parquet(file, asked(), MANIFEST)
    assert 0 < before_group[0] < before_group[1] < before_group[2]
    metadata = ParquetFile(file).metadata
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == [128, 128, 2]


def test_vectors_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="length"):
        written([(["a", "b", "c"], np.ones((3, 4), np.float32))])

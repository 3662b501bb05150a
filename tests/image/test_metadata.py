from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml import image
from ephemeralml.errors import ImageError
from ephemeralml.image.metadata import parse_metadata, read_custom

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def test_the_fields_of_aws_in_its_order_and_spelling() -> None:
    metadata = image.Metadata(
        image_name='é "x"\n\x01\x7f/',
        build_time="2026-11-22T22:22:14.025380281+00:00",
        build_tool_version="1",
        custom={"b": 1.5, "a": {"z": None, "y": [True]}},
    )
    assert metadata.to_bytes().decode() == (
        '{"ImageName":"é \\"x\\"\\n\\u0001\x7f/","ImageVersion":"1.0","BuildMetadata":{"BuildTime":'
        '"2026-11-22T22:22:14.025380281+00:00","BuildTool":"ephemeralml","BuildToolVersion":"1",'
        '"OperatingSystem":"Linux","KernelVersion":"Unknown"},"DockerInfo":null,'
        '"CustomMetadata":{"a":{"y":[true],"z":null},"b":1.5}}'
    )


def test_no_time_comes_in_by_itself() -> None:
    assert parse_metadata(image.Metadata().to_bytes())["BuildMetadata"]["BuildTime"] == "Unknown"


@given(_JSON)
def test_what_is_written_is_read(custom: Any) -> None:
    try:
        data = image.Metadata(custom=custom).to_bytes()
    except ImageError:
        with pytest.raises(UnicodeEncodeError):
            json.dumps(custom, ensure_ascii=False).encode()
    else:
        assert parse_metadata(data)["CustomMetadata"] == custom


@pytest.mark.parametrize(
    "custom", [float("nan"), float("inf"), b"bytes", {1, 2}, "\ud800", {"a": {1: 2, "b": 3}}, _nested(70)]
)
def test_what_json_cannot_hold(custom: Any) -> None:
    with pytest.raises(ImageError) as caught:
        image.Metadata(custom=custom).to_bytes()
    assert caught.value.code == "image.metadata"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"{} {}",
        b"\xef\xbb\xbf{}",
        b'{"a":"\xff"}',
        '{"a":1}'.encode("utf-16"),
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":1}}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":"\\ud800"}',
        b'{"a":' + b"1" * 5000 + b"}",
        b'{"a":' + b"[" * 70 + b"]" * 70 + b"}",
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_is_not_strict_json(data: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        parse_metadata(data)
    assert caught.value.code == "image.metadata"


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_an_object_or_the_typed_error(data: bytes) -> None:
    with suppress(ImageError):
        assert parse_metadata(data) == json.loads(data)


def test_custom_metadata_is_small_and_any_json(tmp_path: Path) -> None:
    path = tmp_path / "custom.json"
    path.write_text('["any", 1]')
    assert read_custom(path) == ["any", 1]
    path.write_text(json.dumps("x" * 4094))
    assert len(read_custom(path)) == 4094
    path.write_text(json.dumps("x" * 4095))
    with pytest.raises(ImageError) as caught:
        read_custom(path)
    assert caught.value.code == "image.metadata"


def test_metadata_larger_than_a_reader_takes() -> None:
    with pytest.raises(ImageError) as caught:
        image.Metadata(docker_info="x" * (256 << 10)).to_bytes()
    assert caught.value.code == "image.metadata"

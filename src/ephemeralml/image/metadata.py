"""The metadata section: JSON about who built the image, and how. Nothing measures it, so nothing may rely on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ephemeralml import strict_json
from ephemeralml.errors import ImageError
from ephemeralml.image.layout import MAX_METADATA_BYTES
from ephemeralml.image.pieces import Piece, read_small

# As in AWS's builder.
MAX_CUSTOM_BYTES: Final = 4096
UNKNOWN: Final = "Unknown"

_MAX_DEPTH = 64


def _bad(message: str) -> ImageError:
    return ImageError(f"the image's metadata {message}", code="image.metadata")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What the section says, in the fields AWS's tools require. No value comes from the clock or the machine.

    `build_time`: RFC 3339, written as given. `custom` and `docker_info`: any JSON value.
    """

    image_name: str = UNKNOWN
    image_version: str = "1.0"
    build_time: str = UNKNOWN
    build_tool: str = "ephemeralml"
    build_tool_version: str = UNKNOWN
    operating_system: str = "Linux"
    kernel_version: str = UNKNOWN
    docker_info: Any = None
    custom: Any = None

    def to_bytes(self) -> bytes:
        """Compact JSON, keys and spelling as AWS's tools write them. Raises `ImageError` (``image.metadata``)."""
        build = {
            "BuildTime": self.build_time,
            "BuildTool": self.build_tool,
            "BuildToolVersion": self.build_tool_version,
            "OperatingSystem": self.operating_system,
            "KernelVersion": self.kernel_version,
        }
        data = _dump(
            {
                "ImageName": self.image_name,
                "ImageVersion": self.image_version,
                "BuildMetadata": build,
                "DockerInfo": _sorted(self.docker_info),
                "CustomMetadata": _sorted(self.custom),
            }
        )
        if len(data) > MAX_METADATA_BYTES:
            raise _bad(f"has more than {MAX_METADATA_BYTES} bytes")
        return data


def parse_metadata(section: bytes) -> Mapping[str, Any]:
    """Read the section: any JSON object, as other tools write others. Raises `ImageError` (``image.metadata``)."""
    value = _parse(section)
    if not isinstance(value, dict):
        raise _bad("is not a JSON object")
    return value


def read_custom(piece: Piece) -> Any:
    """Strict JSON for `Metadata.custom`, a file or bytes. Raises OSError, or `ImageError` (``image.metadata``)."""
    return _parse(read_small(piece, limit=MAX_CUSTOM_BYTES, what="the image's custom metadata", code="image.metadata"))


def _parse(data: bytes) -> Any:
    try:
        value = strict_json.loads(data.decode())
    except (ValueError, RecursionError):
        raise _bad("is not well-formed JSON in UTF-8 with each key once") from None
    # Now, and not when somebody prints it.
    _dump(value)
    return value


def _dump(value: object) -> bytes:
    _check_depth(value)
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, TypeError):
        raise _bad("holds something that JSON cannot: a number that is not finite, or broken text") from None


def _sorted(value: object) -> object:
    _check_depth(value)
    try:
        return json.loads(json.dumps(value, sort_keys=True))
    except (ValueError, TypeError):
        raise _bad("holds something that JSON cannot") from None


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for item in level
            if isinstance(item, (dict, list, tuple))
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise _bad(f"is nested deeper than {_MAX_DEPTH}")

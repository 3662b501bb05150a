"""Members of a request body, each read with its type and limit (AWS KMS API Reference)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Final, TypeAlias

from ephemeralml.devcloud.kms.api_error import VALIDATION, ApiError

Body: TypeAlias = Mapping[str, object]

MAX_CONTEXT_BYTES: Final = 8192


def text(body: Body, name: str, *, default: str | None = None, limit: int = 2048) -> str:
    """A string of at most `limit` characters; `default` None makes it required."""
    value = body.get(name)
    if value is None:
        if default is None:
            raise _missing(name)
        return default
    if not isinstance(value, str):
        raise _serialization(name, "a string")
    if len(value) > limit:
        raise ApiError(VALIDATION, f"{name} must have length less than or equal to {limit}.")
    return value


def flag(body: Body, name: str) -> bool:
    """A boolean, false when absent."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise _serialization(name, "a boolean")
    return bool(value)


def blob(body: Body, name: str, *, limit: int) -> bytes:
    """A required binary value of 1 to `limit` bytes, in base64."""
    value = body.get(name)
    if value is None:
        raise _missing(name)
    if not isinstance(value, str):
        raise _serialization(name, "base64")
    try:
        raw = base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        raise _serialization(name, "base64") from None
    if not 1 <= len(raw) <= limit:
        raise ApiError(VALIDATION, f"{name} must have 1 to {limit} bytes.")
    return raw


def encryption_context(body: Body, name: str = "EncryptionContext") -> dict[str, str]:
    """The encryption context in the member `name`, empty when absent.

    Keys that differ only by case are refused, stricter than AWS, which advises against them: key policies, where the
    name is not case-sensitive, could not tell them apart.
    """
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise _serialization(name, "a map of strings")
    try:
        size = sum(len(key.encode()) + len(item.encode()) for key, item in value.items())
    except UnicodeError:
        raise _serialization(name, "a map of strings") from None
    if size > MAX_CONTEXT_BYTES:
        raise ApiError(VALIDATION, f"{name} must have at most {MAX_CONTEXT_BYTES} bytes.")
    if len({key.lower() for key in value}) != len(value):
        raise ApiError(VALIDATION, f"{name} has keys that differ only by case.")
    return value


def _missing(name: str) -> ApiError:
    return ApiError(VALIDATION, f"Value null at '{name}' failed to satisfy constraint: Member must not be null")


def _serialization(name: str, kind: str) -> ApiError:
    return ApiError("SerializationException", f"{name} must be {kind}.")

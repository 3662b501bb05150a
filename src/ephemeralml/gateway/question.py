"""A request's body, read once for both dialects: JSON, its fields, its texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ephemeralml import strict_json
from ephemeralml.client import EmbedResult
from ephemeralml.gateway.problem import Problem, RefusedError
from ephemeralml.session.limits import MOST_TEXTS

_TOKENS = (
    "token ids are not accepted: the vocabulary is encrypted inside the model's package, and only the enclave has it; "
    "send text (LangChain: check_embedding_ctx_length=False)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Texts, and how their vectors are wanted. `model` and `dimensions` are None when the caller named none."""

    texts: tuple[str, ...] = field(repr=False)
    model: str | None = None
    dimensions: int | None = None
    base64: bool = False
    normalize: bool = False


class Dialect(NamedTuple):
    """One way of asking: a body's question, an answer's body, an error's body."""

    read: Callable[[bytes], Question]
    write: Callable[[Question, EmbedResult], bytes]
    refuse: Callable[[Problem], bytes]


def read_object(body: bytes, known: frozenset[str]) -> dict[str, Any]:
    """The JSON object with fields of these names. Raises `RefusedError`, and quotes nothing but such a name."""
    try:
        value = strict_json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RefusedError("the body is not a JSON object", code="request.json")
    if not known.issuperset(value):
        names = ", ".join(sorted(known))
        raise RefusedError(f"the body has a field that is not one of: {names}", code="request.field")
    return value


def read_texts(value: object, param: str) -> tuple[str, ...]:
    """The texts of a string or a list of them, at least one. Raises `RefusedError`."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not value:
        raise RefusedError(f"{param} must be a string or a list of strings", code="request.type", param=param)
    if all(isinstance(item, int | list) for item in value):
        raise RefusedError(f"{param}: {_TOKENS}", code="request.tokens", param=param)
    if len(value) > MOST_TEXTS:
        message = f"{param} has {len(value)} texts, and no enclave takes more than {MOST_TEXTS}; send fewer at a time"
        raise RefusedError(message, code="request.texts", param=param)
    if not all(isinstance(item, str) for item in value):
        raise RefusedError(f"{param} must be a string or a list of strings", code="request.type", param=param)
    return tuple(value)


def choose(fields: dict[str, Any], name: str, default: object, *allowed: object) -> object:
    """The value of a field that may be absent, null, or one of `allowed`. Raises `RefusedError`."""
    value = fields.get(name)
    if value is None:
        return default
    # A list is no key, and 1 is not true.
    if not any(type(value) is type(one) and value == one for one in allowed):
        choices = " or ".join(json.dumps(one) for one in allowed)
        raise RefusedError(f"{name} must be {choices}", code=f"request.{name}", param=name)
    return value

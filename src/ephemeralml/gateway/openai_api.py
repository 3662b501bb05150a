"""OpenAI's words: ``POST /v1/embeddings``, ``GET /v1/models``, and the envelope of errors."""

from __future__ import annotations

import base64
import json
from typing import Any

from ephemeralml.client import EmbedResult
from ephemeralml.gateway.problem import Problem, RefusedError
from ephemeralml.gateway.question import Dialect, Question, choose, read_object, read_texts
from ephemeralml.package.manifest import Manifest

_FIELDS = frozenset({"model", "input", "encoding_format", "dimensions", "user"})


def read(body: bytes) -> Question:
    """The request. Raises `RefusedError`."""
    fields = read_object(body, _FIELDS)
    model, dimensions, user = fields.get("model"), fields.get("dimensions"), fields.get("user")
    if not isinstance(model, str):
        raise RefusedError("model must be the served model's name: GET /v1/models", code="request.model", param="model")
    if dimensions is not None and type(dimensions) is not int:
        raise RefusedError("dimensions must be an integer", code="request.dimensions", param="dimensions")
    # Taken as OpenAI takes it, and neither kept nor sent on.
    if user is not None and not isinstance(user, str):
        raise RefusedError("user must be a string", code="request.user", param="user")
    return Question(
        texts=read_texts(fields.get("input"), "input"),
        model=model,
        dimensions=dimensions,
        base64=choose(fields, "encoding_format", "float", "float", "base64") == "base64",
    )


def write(question: Question, result: EmbedResult) -> bytes:
    """The answer; base64 is of little-endian float32, as OpenAI's is."""
    rows: list[Any]
    if question.base64:
        rows = [base64.b64encode(row).decode() for row in result.vectors.astype("<f4", copy=False)]
    else:
        rows = result.vectors.tolist()
    data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
    usage = {"prompt_tokens": result.tokens, "total_tokens": result.tokens}
    answer = {"object": "list", "data": data, "model": result.receipt.claims.model_id, "usage": usage}
    return json.dumps(answer, separators=(",", ":")).encode()


def refuse(problem: Problem) -> bytes:
    """The envelope; ``step`` is ours, where evidence was refused."""
    error = {"message": problem.message, "type": problem.type, "param": problem.param, "code": problem.code}
    return json.dumps({"error": error if problem.step is None else error | {"step": problem.step}}).encode()


OPENAI = Dialect(read, write, refuse)


def model_entry(manifest: Manifest) -> dict[str, object]:
    """The served model as OpenAI's list has it; its owner is named by the key that signed the package."""
    return {
        "id": manifest.model_id,
        "object": "model",
        "created": manifest.created_at,
        "owned_by": manifest.owner.hex(),
    }

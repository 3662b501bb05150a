"""The words of Hugging Face's text-embeddings-inference: ``POST /embed``, ``GET /info``, and its errors."""

from __future__ import annotations

import json
from importlib.metadata import version

from ephemeralml.client import EmbedResult, normalized
from ephemeralml.gateway.problem import Problem
from ephemeralml.gateway.question import Dialect, Question, choose, read_object, read_texts
from ephemeralml.package.manifest import Manifest

# The enclave always cuts what the model cannot read, on the right: another wish is refused, never passed over.
_FIELDS = frozenset({"inputs", "truncate", "truncation_direction", "normalize"})
_TYPES = {400: "validation", 413: "validation", 422: "validation", 429: "overloaded", 503: "overloaded"}
_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}


def read(body: bytes) -> Question:
    """The request. Raises `RefusedError`."""
    fields = read_object(body, _FIELDS)
    choose(fields, "truncate", True, True)
    choose(fields, "truncation_direction", "Right", "Right", "right")
    return Question(
        texts=read_texts(fields.get("inputs"), "inputs"),
        normalize=choose(fields, "normalize", True, True, False) is True,
    )


def write(question: Question, result: EmbedResult) -> bytes:
    """The vectors, a list of lists."""
    vectors = normalized(result.vectors) if question.normalize else result.vectors
    return json.dumps(vectors.tolist(), separators=(",", ":")).encode()


def refuse(problem: Problem) -> bytes:
    """TEI's error."""
    return json.dumps({"error": problem.message, "error_type": _TYPES.get(problem.status, "backend")}).encode()


TEI = Dialect(read, write, refuse)


def info(manifest: Manifest, *, concurrent: int) -> dict[str, object]:
    """What is served; ``model_sha`` is the signed manifest's digest."""
    return {
        "model_id": manifest.model_id,
        "model_sha": manifest.digest.hex(),
        "model_dtype": _DTYPES[manifest.spec.precision],
        "model_type": {"embedding": {"pooling": manifest.spec.pooling}},
        "max_input_length": manifest.spec.max_sequence_length,
        "max_concurrent_requests": concurrent,
        "auto_truncate": True,
        "version": version("ephemeralml"),
    }

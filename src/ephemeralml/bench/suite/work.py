"""What a measured process does: the same lines on bare metal and in an enclave, so that only the place differs."""

from __future__ import annotations

import base64
import os
import platform
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import numpy as np

from ephemeralml.bench.errors import BenchError
from ephemeralml.bench.memory import memory_of
from ephemeralml.bench.suite.questions import LARGEST_PAYLOAD, receive, send
from ephemeralml.errors import EphemeralMLError, RequestError, TransportError
from ephemeralml.inference import Encoder
from ephemeralml.inference.bert import BertConfig
from ephemeralml.inference.encoder import load_engine
from ephemeralml.inference.tokenizer import Tokenizer
from ephemeralml.inference.weights import Weights
from ephemeralml.package.model import Buffer, ModelSpec, read_json_object
from ephemeralml.session.blocking import read_exactly, write_all
from ephemeralml.session.limits import WRITE_BYTES

Question: TypeAlias = dict[str, Any]
Answer: TypeAlias = dict[str, Any]
Answers: TypeAlias = Mapping[str, Callable[[Question], Answer]]

_LIBRARIES: Final = ("numpy", "onnxruntime", "tokenizers", "cryptography", "openvino")


def timed(call: Callable[..., object], *arguments: object) -> float:
    """Milliseconds of a call by the monotonic clock."""
    start = time.perf_counter()
    call(*arguments)
    return (time.perf_counter() - start) * 1000


def load_by_part(files: Mapping[str, Buffer], spec: ModelSpec) -> dict[str, float]:
    """Milliseconds of what `Encoder.from_buffers` does at once, one after the other. Uses up the weights."""
    config = BertConfig.from_json(read_json_object(files, "config.json"))
    return {
        "deserialise": timed(lambda: load_engine(config, spec, Weights(files["model.safetensors"]))),
        "tokenizer": timed(lambda: Tokenizer(files, max_length=spec.max_sequence_length, vocab_size=config.vocab_size)),
    }


class Work:
    """Answers questions about one encoder until the one who asks hangs up. `own`: what only this place can answer."""

    def __init__(self, encoder: Encoder, own: Answers) -> None:
        self._encoder = encoder
        self._answers: Answers = {
            "about": self._about,
            "encode": self._encode,
            "vectors": self._vectors,
            "memory": lambda _: memory_of(os.getpid()),
            **own,
        }

    def serve(self, listener: socket.socket) -> None:
        """Every connection, for good: whoever measures has one, and the host looks now and then whether we live."""
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        if connection.family in {socket.AF_INET, socket.AF_INET6}:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while True:
                question = receive(connection)
                match question.get("ask"):
                    case "echo":
                        _echo(connection, question)
                    case "take":
                        _take(connection, question)
                    case "give":
                        _give(connection, question)
                    case asked:
                        send(connection, self._answer(asked, question))
        # Whoever hung up, or asks for what is no question: the next one is served.
        except (TransportError, BenchError, KeyError):
            return
        finally:
            connection.close()

    def _answer(self, asked: object, question: Question) -> Answer:
        try:
            if asked not in self._answers:
                raise RequestError(f"this process cannot answer {asked!r:.40}", code="bench.question")
            return self._answers[str(asked)](question)
        except EphemeralMLError as error:
            return {"error": str(error), "code": error.code}
        # Whatever fails is said, and the next question answered.
        except Exception as error:  # noqa: BLE001
            return {"error": f"{type(error).__name__}: {error}", "code": "internal"}

    def _about(self, _: Question) -> Answer:
        return {
            "threads": len(os.sched_getaffinity(0)),
            "precision": self._encoder.precision,
            "python": platform.python_version(),
            "libraries": {name: _version(name) for name in _LIBRARIES},
        }

    def _encode(self, question: Question) -> Answer:
        """`iterations` calls of `Encoder.encode`, each with the next of `calls` (lists of texts), after `warmups`.

        Before those come untimed calls for `lead` seconds: after a rest the first ones take twice as long.
        """
        calls: list[list[str]] = question["calls"]
        encode = self._encoder.encode
        until = time.perf_counter() + question["lead"]
        while time.perf_counter() < until:
            encode(calls[0])
        for number in range(question["warmups"]):
            encode(calls[number % len(calls)])
        return {"ms": [timed(encode, calls[number % len(calls)]) for number in range(question["iterations"])]}

    def _vectors(self, question: Question) -> Answer:
        vectors = self._encoder.encode(list(question["texts"])).astype("<f4")
        return {"shape": vectors.shape, "float32": base64.b64encode(np.ascontiguousarray(vectors).tobytes()).decode()}


def _echo(connection: socket.socket, question: Question) -> None:
    """The same bytes back, as often as said; not an answer in words, so an error cannot pass for one."""
    size = _size(question)
    for _ in range(question["rounds"]):
        write_all(connection, read_exactly(connection, size))


def _take(connection: socket.socket, question: Question) -> None:
    left = total = int(question["bytes"])
    while left:
        left -= len(read_exactly(connection, min(left, WRITE_BYTES)))
    send(connection, {"taken": total})


def _give(connection: socket.socket, question: Question) -> None:
    piece, left = os.urandom(WRITE_BYTES), int(question["bytes"])
    while left:
        write_all(connection, piece[: min(left, WRITE_BYTES)])
        left -= min(left, WRITE_BYTES)


def _size(question: Question) -> int:
    size = int(question["size"])
    if not 0 < size <= LARGEST_PAYLOAD:
        raise TransportError(f"a payload of {size} bytes", code="bench.payload")
    return size


def _version(name: str) -> str | None:
    """Of a library that this process has loaded; what it has not it does not use. The image has no list of packages."""
    return getattr(sys.modules.get(name), "__version__", None)

"""Round trips and streams between two processes, with the same lines for TCP, Unix sockets and vsock."""

from __future__ import annotations

import os
import time
from typing import Final

from ephemeralml.bench.errors import BenchError
from ephemeralml.bench.suite.questions import Asked, send
from ephemeralml.session.blocking import read_exactly, write_all
from ephemeralml.session.limits import WRITE_BYTES

SIZES: Final = {"64b": 64, "1kb": 1 << 10, "64kb": 64 << 10, "1mb": 1 << 20}
"""Bytes that go there, and as many come back."""


def round_trips(asked: Asked, size: int, *, warmups: int, iterations: int) -> list[float]:
    """Milliseconds from the first byte sent to the last byte back. Raises `BenchError` when other bytes come back."""
    payload = os.urandom(size)
    rounds = warmups + iterations
    send(asked.connection, {"ask": "echo", "size": size, "rounds": rounds})
    samples = []
    for number in range(rounds):
        start = time.perf_counter()
        write_all(asked.connection, payload)
        back = read_exactly(asked.connection, size)
        elapsed = (time.perf_counter() - start) * 1000
        if back != payload:
            raise BenchError(
                "a round trip did not bring the same bytes back: that was an answer of another kind, or an error",
                code="bench.echo",
            )
        if number >= warmups:
            samples.append(elapsed)
    return samples


def stream_in(asked: Asked, total: int) -> float:
    """Megabits (10^6) a second into the other process, in writes of 64 KiB, until it says it has them all."""
    piece, left = os.urandom(WRITE_BYTES), total
    start = time.perf_counter()
    send(asked.connection, {"ask": "take", "bytes": total})
    while left:
        write_all(asked.connection, piece[: min(left, WRITE_BYTES)])
        left -= min(left, WRITE_BYTES)
    if asked.answer().get("taken") != total:
        raise BenchError("the other end did not take all that was sent", code="bench.stream")
    return total * 8 / (time.perf_counter() - start) / 1e6


def stream_out(asked: Asked, total: int) -> float:
    """Megabits (10^6) a second out of the other process."""
    left = total
    start = time.perf_counter()
    send(asked.connection, {"ask": "give", "bytes": total})
    while left:
        left -= len(read_exactly(asked.connection, min(left, WRITE_BYTES)))
    return total * 8 / (time.perf_counter() - start) / 1e6

"""The program in the enclave that measures itself: what it brings with it, and what it answers."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ephemeralml.bench.errors import BenchError
from ephemeralml.bench.suite.questions import MESSAGE_BYTES, Asked
from ephemeralml.bench.suite.work import Work
from ephemeralml.devcloud import measure
from ephemeralml.errors import TransportError
from ephemeralml.host.health import Health, hangs
from ephemeralml.inference import Encoder
from ephemeralml.session.transport import Address

FORBIDDEN = (
    "ephemeralml.client",
    "ephemeralml.host",
    "ephemeralml.devcloud",
    "boto3",
    "botocore",
    "http",
    "typer",
    "rich",
)


@pytest.mark.parametrize("module", ["inside", "bare"])
def test_it_brings_no_client_no_host_and_no_way_to_the_network(module: str) -> None:
    code = f"import sys, ephemeralml.bench.suite.{module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "ephemeralml.bench.suite.work" in loaded
    assert [name for name in loaded if name in FORBIDDEN or name.startswith(tuple(f"{f}." for f in FORBIDDEN))] == []


def test_its_image_is_another_and_the_runtime_the_same() -> None:
    serves, measures = (measure.build_image(program=program) for program in (measure.ENCLAVE, measure.BENCHMARK))
    assert measure.build_image() == serves
    one, other = (measure.measure(b"configuration", image=image) for image in (serves, measures))
    assert one[1] == other[1]
    assert one[0] != other[0]
    assert one[2] != other[2]


@pytest.fixture(scope="module")
def address(tiny_model: Path) -> Iterator[tuple[str, int]]:
    """A process's work, in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        work = Work(Encoder.from_folder(tiny_model), {})

        def serve() -> None:
            # Nobody else ends it.
            with suppress(OSError):
                work.serve(listener)

        thread = threading.Thread(target=serve)
        thread.start()
        host, port = listener.getsockname()
        yield host, port
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def asked(address: tuple[str, int]) -> Iterator[Asked]:
    with Asked(socket.create_connection(address, timeout=60)) as one:
        yield one


def test_calls_are_timed_as_often_as_asked(asked: Asked) -> None:
    samples = asked.ask("encode", calls=[["a"], ["b", "c"]], warmups=1, iterations=7, lead=0)["ms"]
    assert len(samples) == 7
    assert min(samples) > 0


def test_what_fails_is_said_and_the_next_question_answered(asked: Asked) -> None:
    with pytest.raises(BenchError, match="cannot answer 'release'"):
        asked.ask("release")
    with pytest.raises(BenchError, match="KeyError"):
        asked.ask("encode")
    assert asked.ask("about")["precision"] == "fp32"


def test_a_host_that_looks_whether_it_lives_is_answered_while_it_measures(
    asked: Asked, address: tuple[str, int]
) -> None:
    asked.ask("about")
    host, port = address

    async def look() -> None:
        async with asyncio.timeout(3):
            await hangs(Address("tcp", host=host, port=port), Health(every=0.2, misses=2))

    with pytest.raises(TimeoutError):
        asyncio.run(look())


def test_a_payload_beyond_the_largest_ends_the_connection(asked: Asked) -> None:
    with pytest.raises(TransportError):
        asked.ask("echo", size=2 << 20, rounds=1)


def test_a_message_beyond_the_largest_is_not_read(asked: Asked) -> None:
    asked.connection.sendall((MESSAGE_BYTES + 1).to_bytes(4))
    with pytest.raises(TransportError):
        asked.answer()

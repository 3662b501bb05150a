"""The hypervisor's end of a vsock, as Firecracker plays it: every connection is asked for with ``CONNECT <port>``.

A process that stands in for a guest has no vsock of its own; it gets the same kind of socket on its side. So the two
are mirror images, each a hybrid vsock: a call at one path arrives at ``<the other path>_<port>``.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from functools import partial
from pathlib import Path
from typing import Self

from ephemeralml.errors import TransportError
from ephemeralml.session.hybrid import Line
from ephemeralml.session.limits import WRITE_BYTES
from ephemeralml.session.transport import Address, listen, open_stream

_CALL_SECONDS = 5
_LAST_SECONDS = 5
# What Firecracker's own ports begin with.
_FIRST_PORT = 2**30


class HybridVsock:
    """Joins the sockets at `host` and `guest` in a thread of its own. Use as a context manager.

    Raises `ConfigurationError` when somebody listens at one of the paths.
    """

    def __init__(self, *, host: Path, guest: Path) -> None:
        self._paths = ((host, guest), (guest, host))
        self._ports = itertools.count(_FIRST_PORT)
        self._stop = asyncio.Event()
        self._started: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=self._run, name="vsock", daemon=True)
        self._thread.start()
        self._loop = self._started.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cut every connection and take the socket files away."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - raised where the thread was started
            if not self._started.done():
                self._started.set_exception(error)

    async def _serve(self) -> None:
        with ExitStack() as stack:
            for here, there in self._paths:
                listener, _ = await listen(Address("unix", path=str(here)), partial(self._called, there))
                stack.enter_context(closing(listener))
            self._started.set_result(asyncio.get_running_loop())
            await self._stop.wait()

    async def _called(self, there: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whoever calls in vain is hung up on without a word.
        with suppress(OSError, TransportError):
            async with _hanging_up(writer):
                line = Line()
                async with asyncio.timeout(_CALL_SECONDS):
                    while not line.take(await reader.read(1)):
                        pass
                far_reader, far_writer = await open_stream(Address("unix", path=f"{there}_{line.called()}"))
                async with _hanging_up(far_writer):
                    writer.write(b"OK %d\n" % next(self._ports))
                    await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while chunk := await source.read(WRITE_BYTES):
            sink.write(chunk)
            await sink.drain()
        # The other direction may go on.
        sink.write_eof()
    except OSError:
        sink.transport.abort()


@asynccontextmanager
async def _hanging_up(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Close after the last byte went out, if the peer takes it; at once when something went wrong."""
    try:
        yield
        writer.close()
        async with asyncio.timeout(_LAST_SECONDS):
            await writer.wait_closed()
    finally:
        writer.transport.abort()

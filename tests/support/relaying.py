"""A relay in the test's own process, so that it can be pointed at another enclave."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ephemeralml.host.relay import Relay, Relayed
from ephemeralml.session.transport import Address, serve

PATIENCE = 60


def _ignore(_: Relayed) -> None:
    pass


@contextmanager
def relaying(enclave: Address, on_closed: Callable[[Relayed], None] = _ignore) -> Iterator[tuple[Relay, str]]:
    """Its loop runs in a thread."""
    ready, stop = threading.Event(), asyncio.Event()
    made: list[Any] = []

    async def main() -> None:
        relay = Relay(enclave, on_closed=on_closed)
        server, bound = await serve(Address.parse("tcp://127.0.0.1:0"), relay.connection)
        made.extend((relay, str(bound), asyncio.get_running_loop()))
        ready.set()
        await stop.wait()
        server.close()
        await relay.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert ready.wait(PATIENCE)
    try:
        yield made[0], made[1]
    finally:
        made[2].call_soon_threadsafe(stop.set)
        thread.join()

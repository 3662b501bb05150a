"""An ASGI application behind uvicorn, in a thread: ``with AppServer(…)``."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Final, Self

import uvicorn
from starlette.types import ASGIApp

from ephemeralml.errors import ConfigurationError
from ephemeralml.session.transport import reason

_START_SECONDS: Final = 10.0
_STOP_SECONDS: Final = 2
_MAX_CONNECTIONS: Final = 64


def bind(host: str, port: int, *, service: str) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises `ConfigurationError` (``<service>.address``)."""
    code = f"{service}.address"
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"{port} is no port number; use 1 to 65535, or 0 for any", code=code)
    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        raise ConfigurationError(
            f"the local {service.upper()} cannot listen on {host}:{port}: {reason(error)}; "
            "stop what uses that port, or choose another --port",
            code=code,
        ) from error
    # asyncio does so for sockets of its own alone; without it a small answer waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class _Server(uvicorn.Server):
    """uvicorn's server, which tells when it accepts connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


class AppServer:
    """`app` on a listening socket, which it takes over. Serves in a ``with``."""

    def __init__(self, app: ASGIApp, listening: socket.socket, *, service: str) -> None:
        self._socket = listening
        self._service = service
        host, port = listening.getsockname()[:2]
        self.url: Final = f"http://{host}:{port}"
        self._server = _Server(
            uvicorn.Config(
                app,
                access_log=False,
                log_config=None,
                lifespan="off",
                ws="none",
                server_header=False,
                limit_concurrency=_MAX_CONNECTIONS,
                timeout_graceful_shutdown=_STOP_SECONDS,
            )
        )
        self._thread = threading.Thread(target=self._serve, name=f"devcloud-{service}", daemon=True)

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._server.listening.wait(_START_SECONDS):
            self.__exit__(None, None, None)
            raise ConfigurationError(f"the local {self._service.upper()} did not start", code=f"{self._service}.start")
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join()
        self.close()

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])

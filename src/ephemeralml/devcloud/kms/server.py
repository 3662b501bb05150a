"""The server process: the application behind uvicorn, in a thread (``with KmsServer(…)``) or in the foreground."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import uvicorn

from ephemeralml.attestation import Policy
from ephemeralml.devcloud.kms.app import make_app
from ephemeralml.devcloud.kms.operations import Operations
from ephemeralml.devcloud.kms.sigv4 import Credential
from ephemeralml.devcloud.kms.store import KeyStore
from ephemeralml.errors import ConfigurationError

DEFAULT_REGION: Final = "us-east-1"
DEFAULT_ACCOUNT_ID: Final = "000000000000"

_START_SECONDS: Final = 10.0
_STOP_SECONDS: Final = 2


class _Server(uvicorn.Server):
    """uvicorn's server, which tells when it accepts connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


class KmsServer:
    """A KMS on one address, over one key store. Listens from construction on; serves in a ``with`` or `serve_forever`.

    Not confidential: key material and root certificates are this machine's own.
    """

    def __init__(
        self,
        *,
        store: Path,
        credentials: Sequence[Credential],
        roots: Sequence[bytes],
        host: str = "127.0.0.1",
        port: int = 0,
        region: str = DEFAULT_REGION,
        account_id: str = DEFAULT_ACCOUNT_ID,
    ) -> None:
        """`roots` are DER certificates accepted besides the AWS Nitro root; port 0 takes a free one.

        Raises `ConfigurationError` when the address is in use or the key store cannot be opened, `PolicyError` for
        something in `roots` that is no certificate.
        """
        evidence = Policy.insecure_any_measurement(extra_roots=roots)
        if not 0 <= port <= 65535:
            raise ConfigurationError(f"{port} is no port number; use 1 to 65535, or 0 for any", code="kms.address")
        try:
            self._socket = socket.create_server((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"the KMS cannot listen on {host}:{port}: {error}; choose another port", code="kms.address"
            ) from error
        self.url: Final = f"http://{host}:{self._socket.getsockname()[1]}"
        self.region: Final = region
        try:
            self._store = KeyStore(store)
        except ConfigurationError:
            self._socket.close()
            raise
        operations = Operations(store=self._store, evidence=evidence, region=region, account_id=account_id)
        app = make_app(operations, credentials={item.access_key_id: item for item in credentials}, region=region)
        self._server = _Server(
            uvicorn.Config(
                app,
                access_log=False,
                log_config=None,
                lifespan="off",
                ws="none",
                server_header=False,
                limit_concurrency=64,
                timeout_graceful_shutdown=_STOP_SECONDS,
            )
        )
        self._thread = threading.Thread(target=self._serve, name="devcloud-kms", daemon=True)

    def serve_forever(self) -> None:
        """Serve until SIGINT or SIGTERM, which is raised again afterwards; call it from the main thread."""
        try:
            self._serve()
        finally:
            self.close()

    def close(self) -> None:
        """Stop listening and close the key store."""
        self._socket.close()
        self._store.close()

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._server.listening.wait(_START_SECONDS):
            self.__exit__(None, None, None)
            raise ConfigurationError("the KMS did not start", code="kms.start")
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join()
        self.close()

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])

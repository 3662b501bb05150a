"""The S3 as a server on one address."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ephemeralml.devcloud.app_server import AppServer, bind
from ephemeralml.devcloud.s3.app import make_app
from ephemeralml.devcloud.s3.store import ObjectStore
from ephemeralml.devcloud.sigv4 import Credential, Verifier
from ephemeralml.errors import ConfigurationError

DEFAULT_REGION: Final = "us-east-1"

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", re.ASCII)


class S3Server(AppServer):
    """An S3 on one address, over one folder. Listens from construction on; serves in a ``with``."""

    def __init__(
        self,
        folder: Path,
        *,
        buckets: Sequence[str],
        writers: Sequence[Credential],
        readers: Sequence[Credential],
        host: str = "127.0.0.1",
        port: int = 0,
        region: str = DEFAULT_REGION,
    ) -> None:
        """`readers` may GetObject and nothing else, not even see what is missing; port 0 takes a free one.

        Raises `ConfigurationError` when the address is in use, the folder cannot be made or a bucket's name is none.
        """
        if not all(_BUCKET.fullmatch(bucket) for bucket in buckets):
            raise ConfigurationError("a bucket's name is 3 to 63 of a-z, 0-9 and -", code="s3.bucket")
        listening = bind(host, port, service="s3")
        try:
            store = ObjectStore(folder, buckets=buckets)
        except OSError as error:
            listening.close()
            raise ConfigurationError(
                f"objects cannot be kept in {folder}: {error.strerror}", code="s3.folder"
            ) from error
        app = make_app(
            store,
            verifier=Verifier(
                service="s3",
                region=region,
                credentials={item.access_key_id: item for item in (*writers, *readers)},
            ),
            writers=frozenset(item.principal_arn for item in writers),
        )
        super().__init__(app, listening, service="s3")

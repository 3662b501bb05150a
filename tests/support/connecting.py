"""boto3's clients, unchanged but for one attempt a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.config import Config

from ephemeralml.devcloud.sigv4 import Credential


@contextmanager
def connecting(session: boto3.session.Session, service: str, at: str) -> Iterator[Callable[..., Any]]:
    """What makes them; each is closed in the end."""
    clients = []

    def make(
        credential: Credential, *, secret: str | None = None, region: str = "us-east-1", url: str | None = None
    ) -> Any:
        client: Any = session.client(
            service,
            endpoint_url=url or at,
            region_name=region,
            aws_access_key_id=credential.access_key_id,
            aws_secret_access_key=secret or credential.secret_access_key,
            config=Config(retries={"total_max_attempts": 1}),
        )
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()

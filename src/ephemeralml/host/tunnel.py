"""The host's end of a tunnel to KMS: temporary credentials, and a stream carried blindly to the one destination."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias
from urllib.parse import urlsplit

from ephemeralml.errors import ConfigurationError, KeyReleaseError, TransportError
from ephemeralml.session.kms_errors import no_credentials
from ephemeralml.session.limits import WRITE_BYTES
from ephemeralml.session.transport import Address, open_stream
from ephemeralml.session.tunnel import Credentials, Endpoint

Stream: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_CONNECT_SECONDS = 5
# One question and its answer.
_CARRY_SECONDS = 60


def destination(key_arn: str, endpoint_url: str | None) -> Address:
    """Where tunnels lead: to `endpoint_url`, or to AWS's KMS in the key's region.

    Raises `ConfigurationError` for a URL that names no host, `KeyReleaseError` for a partition without one.
    """
    if endpoint_url is None:
        return Address("tcp", host=Endpoint.of(key_arn).host, port=443)
    try:
        url = urlsplit(endpoint_url)
        host, port = url.hostname, url.port or 443
    except ValueError:
        host = None
    if not host:
        raise ConfigurationError(f"{endpoint_url} is not the URL of a KMS", code="kms.client")
    return Address("tcp", host=host, port=port)


def temporary_credentials() -> Credentials:
    """From boto3's default chain. Raises `KeyReleaseError` when it has none, or only such as do not expire."""
    import boto3  # noqa: PLC0415 - slow, and an enclave boots meanwhile
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    try:
        found = boto3.session.Session().get_credentials()
        frozen = found and found.get_frozen_credentials()
    except BotoCoreError as error:
        raise no_credentials() from error
    if not frozen:
        raise no_credentials()
    if not frozen.token:
        raise KeyReleaseError(
            "this host has a permanent access key only, which it hands to no enclave; give it a role",
            code="kms.credentials",
        )
    return Credentials(frozen.access_key, frozen.secret_key, frozen.token)


@asynccontextmanager
async def stream_to(address: Address) -> AsyncIterator[Stream]:
    """A connection to KMS. Raises `KeyReleaseError`."""
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            stream = await open_stream(address)
    except (TransportError, TimeoutError) as error:
        raise KeyReleaseError(
            f"the host's tunnel does not reach KMS at {address}; check this host's network and the endpoint",
            code="kms.unreachable",
        ) from error
    try:
        yield stream
    finally:
        stream[1].transport.abort()


async def carry(near: Stream, far: Stream) -> None:
    """Copy both ways until one side ends, for a minute at most."""
    ways = [asyncio.ensure_future(_copy(near[0], far[1])), asyncio.ensure_future(_copy(far[0], near[1]))]
    try:
        await asyncio.wait(ways, timeout=_CARRY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(WRITE_BYTES):
        writer.write(data)
        await writer.drain()

"""Every size, count and time of a session that an outsider can influence, named once."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ephemeralml.codec.cbor import MAX_ITEMS
from ephemeralml.errors import ConfigurationError
from ephemeralml.receipts.verify import MAX_SESSION

# Protocol caps: both sides know them before anything is allocated.
HANDSHAKE_FRAME_BYTES = 64 * 1024
RECORD_FRAME_BYTES = 16 * 1024 * 1024
# Of a client's record, padded: the client can say that a request is too large before it is sent.
REQUEST_BYTES = 4 * 1024 * 1024
# A request's texts and its other fields have to decode.
MOST_TEXTS = MAX_ITEMS - 64
# vsock collapses above 1 MiB per write (Lutsch et al. 2025).
WRITE_BYTES = 64 * 1024
# What an enclave that is told to stop takes to answer the requests in work: with a second for its last words it is done
# well before a host kills it (10 s).
DRAIN_SECONDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one enclave grants its clients; part of its measured configuration. Times in seconds, sizes in bytes."""

    handshake_seconds: int = 10
    idle_seconds: int = 300
    lifetime_seconds: int = 3600
    # A peer that takes longer to deliver or to accept one frame is slow on purpose or gone.
    frame_seconds: int = 20
    key_rotation_seconds: int = 3600
    connections: int = 512
    handshakes: int = 4
    requests_in_flight: int = 32
    texts_per_request: int = 1024
    text_bytes: int = 256 * 1024
    request_bytes: int = 2 * 1024 * 1024
    # Requests being read and answers being written, all sessions together.
    session_bytes: int = 8 * 1024 * 1024
    total_bytes: int = 256 * 1024 * 1024

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if type(value) is not int or not 0 < value <= 2**40:
                raise ConfigurationError(f"limit {item.name} must be a positive integer", code="configuration.limit")
        if self.texts_per_request > MOST_TEXTS:
            raise ConfigurationError(f"limit texts_per_request is above {MOST_TEXTS}", code="configuration.limit")
        if self.request_bytes > REQUEST_BYTES:
            raise ConfigurationError(f"limit request_bytes is above {REQUEST_BYTES}", code="configuration.limit")
        if self.lifetime_seconds > MAX_SESSION.total_seconds():
            raise ConfigurationError(
                f"limit lifetime_seconds is above {MAX_SESSION.total_seconds():.0f}: later receipts would not verify",
                code="configuration.limit",
            )

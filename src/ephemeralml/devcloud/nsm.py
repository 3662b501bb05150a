"""A software Nitro Security Module: the requests, answers and documents of AWS's, under a development root.

The protocol is that of aws-nitro-enclaves-nsm-api (``src/api/mod.rs``): one CBOR value in, one out, enum variants named
by text. PCR0 to 15 are locked from the start, 16 to 31 can be extended and locked.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from ephemeralml.codec import cbor, cose
from ephemeralml.devcloud.root import Chain, DevelopmentRoot
from ephemeralml.errors import CodecError, ConfigurationError

MAX_REQUEST_BYTES: Final = 0x1000
MAX_FIELD_BYTES: Final = 1024
RANDOM_BYTES: Final = 256

_PCR_BYTES = 48
_PCR_COUNT = 32
_LOCKED_AT_START = 16
# Renewing well before the end leaves a client time to verify at its own clock.
_RENEW_BEFORE = timedelta(minutes=30)
_INDEFINITE_MAP, _BREAK = b"\xbf", b"\xff"


class _Refused(Exception):  # noqa: N818  an answer of the protocol, not an error of ours
    """Ends a request with one of AWS's error codes."""


def _fields(value: object, *names: str) -> tuple[Any, ...]:
    if not isinstance(value, dict) or not value.keys() <= set(names):
        raise _Refused("InvalidArgument")
    return tuple(value.get(name) for name in names)


def _integer(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**16:
        raise _Refused("InvalidArgument")
    return value


def _register(value: object) -> int:
    index = _integer(value)
    if index >= _PCR_COUNT:
        raise _Refused("InvalidIndex")
    return index


def _sized(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise _Refused("InvalidArgument")
    if len(value) > MAX_FIELD_BYTES:
        raise _Refused("InputTooLarge")
    return value


def _indefinite_map(fields: Mapping[str, object]) -> bytes:
    """The map as AWS writes its payload since 2025: in the order of the fields, indefinite length."""
    items = (cbor.encode(name) + cbor.encode(value) for name, value in fields.items())
    return b"".join((_INDEFINITE_MAP, *items, _BREAK))


class SoftwareNsm:
    """One security module. `measurements` maps PCR 0 to 15 to 48 bytes; the rest start as zero.

    Thread-safe. `clock` returns the aware time that documents and certificates carry. Raises `ConfigurationError` for
    measurements of another size or index.
    """

    def __init__(
        self,
        root: DevelopmentRoot,
        measurements: Mapping[int, bytes],
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        for index, value in measurements.items():
            if not 0 <= index < _LOCKED_AT_START or len(value) != _PCR_BYTES:
                raise ConfigurationError(
                    f"measurements are PCR0 to 15 of {_PCR_BYTES} bytes each", code="nsm.measurements"
                )
        # Instance id zero: nothing on EC2 has it.
        self.module_id: Final = f"i-{0:017x}-enc{secrets.token_hex(8)}"
        self._root = root
        self._clock = clock
        self._pcrs = [measurements.get(index, bytes(_PCR_BYTES)) for index in range(_PCR_COUNT)]
        self._locked = set(range(_LOCKED_AT_START))
        self._chain: Chain | None = None
        self._lock = threading.Lock()
        self._operations: Final[Mapping[str, Callable[[object], object]]] = {
            "DescribePCR": self._describe_pcr,
            "ExtendPCR": self._extend_pcr,
            "LockPCR": self._lock_pcr,
            "LockPCRs": self._lock_pcrs,
            "Attestation": self._attestation,
        }

    def handle(self, request: bytes) -> bytes:
        """Answer one CBOR request of at most 4096 bytes; any bytes whatever get a CBOR answer."""
        try:
            with self._lock:
                return cbor.encode(self._answer(request))
        except _Refused as refused:
            return cbor.encode({"Error": str(refused)})

    def _answer(self, request: bytes) -> object:
        if len(request) > MAX_REQUEST_BYTES:
            raise _Refused("InputTooLarge")
        try:
            value = cbor.decode_foreign(request, limit=MAX_REQUEST_BYTES)
        except CodecError:
            raise _Refused("InvalidArgument") from None
        if value == "DescribeNSM":
            return {"DescribeNSM": self._describe_nsm()}
        if value == "GetRandom":
            return {"GetRandom": {"random": secrets.token_bytes(RANDOM_BYTES)}}
        if not isinstance(value, dict) or len(value) != 1:
            raise _Refused("InvalidOperation")
        ((name, argument),) = value.items()
        operation = self._operations.get(str(name))
        if operation is None:
            raise _Refused("InvalidOperation")
        return operation(argument)

    def _describe_nsm(self) -> object:
        return {
            "version_major": 1,
            "version_minor": 0,
            "version_patch": 0,
            "module_id": self.module_id,
            "max_pcrs": _PCR_COUNT,
            "locked_pcrs": sorted(self._locked),
            "digest": "SHA384",
        }

    def _describe_pcr(self, argument: object) -> object:
        (index,) = _fields(argument, "index")
        index = _register(index)
        return {"DescribePCR": {"lock": index in self._locked, "data": self._pcrs[index]}}

    def _extend_pcr(self, argument: object) -> object:
        index, data = _fields(argument, "index", "data")
        index, data = _register(index), _sized(data)
        self._refuse_locked(index)
        self._pcrs[index] = hashlib.sha384(self._pcrs[index] + data).digest()
        return {"ExtendPCR": {"data": self._pcrs[index]}}

    def _lock_pcr(self, argument: object) -> object:
        (index,) = _fields(argument, "index")
        index = _register(index)
        self._refuse_locked(index)
        self._locked.add(index)
        return "LockPCR"

    def _lock_pcrs(self, argument: object) -> object:
        (count,) = _fields(argument, "range")
        count = _integer(count)
        if count > _PCR_COUNT:
            raise _Refused("InvalidIndex")
        self._locked.update(range(count))
        return "LockPCRs"

    def _refuse_locked(self, index: int) -> None:
        if index in self._locked:
            raise _Refused("ReadOnlyIndex")

    def _attestation(self, argument: object) -> object:
        fields = _fields(argument, "public_key", "user_data", "nonce")
        public_key, user_data, nonce = (None if item is None else _sized(item) for item in fields)
        now = self._clock()
        chain = self._current_chain(now)
        payload = _indefinite_map(
            {
                "module_id": self.module_id,
                "digest": "SHA384",
                "timestamp": (now - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1),
                "pcrs": {index: self._pcrs[index] for index in sorted(self._locked)},
                "certificate": chain.certificate,
                "cabundle": list(chain.cabundle),
                "public_key": public_key,
                "user_data": user_data,
                "nonce": nonce,
            }
        )
        document = cose.sign(payload, chain.key, protected={cose.ALG: cose.ES384}, tagged=False)
        return {"Attestation": {"document": document}}

    def _current_chain(self, now: datetime) -> Chain:
        if self._chain is None or now > self._chain.not_after - _RENEW_BEFORE:
            self._chain = self._root.issue_chain(module_id=self.module_id, now=now)
        return self._chain

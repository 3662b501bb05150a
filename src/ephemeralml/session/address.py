"""Where a stream leads, as text: TCP, a Unix socket, vsock, or vsock carried over a Unix socket."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import ClassVar

from ephemeralml.errors import ConfigurationError

# VMADDR_CID_ANY and VMADDR_PORT_ANY (vsock(7)): every CID of this machine; whichever port is free.
CID_ANY = PORT_ANY = 2**32 - 1
# Longest path a sockaddr_un holds on Linux (unix(7)).
_UNIX_PATH_BYTES = 107
_TCP = re.compile(r"tcp://(?:\[([0-9A-Za-z:.%]+)\]|([0-9A-Za-z._-]+)):([0-9]{1,5})/?")
_VSOCK = re.compile(r"vsock://(any|[0-9]{1,10}):([0-9]{1,10})")
_HYBRID = re.compile(r"vsock\+unix://(/[^\0]*):([0-9]{1,10})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address; `str()` gives it back."""

    FORMS: ClassVar = "tcp://HOST:PORT, unix:///path, vsock://CID:PORT or vsock+unix:///path:PORT"

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""
    cid: int = 0

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises `ConfigurationError` for anything but the four forms."""
        if match := _TCP.fullmatch(text):
            bracketed, name, port = match.groups()
            if int(port) < 2**16:
                return cls("tcp", host=bracketed or name, port=int(port))
        elif match := _VSOCK.fullmatch(text):
            cid = CID_ANY if match[1] == "any" else int(match[1])
            if cid <= CID_ANY and int(match[2]) < PORT_ANY:
                return cls("vsock", cid=cid, port=int(match[2]))
        elif match := _HYBRID.fullmatch(text):
            # There is nobody to pick a free port: 0 has no meaning here.
            if 0 < int(match[2]) < PORT_ANY:
                address = cls("vsock+unix", path=match[1], port=int(match[2]))
                _check_length(text, address.listening_path)
                return address
        elif text.startswith("unix:///") and "\0" not in text:
            path = text.removeprefix("unix://")
            _check_length(text, path)
            return cls("unix", path=path)
        raise ConfigurationError(f"address {text!r} is not of the form {cls.FORMS}", code="address.malformed")

    def __str__(self) -> str:
        match self.scheme:
            case "unix":
                return f"unix://{self.path}"
            case "vsock":
                return f"vsock://{'any' if self.cid == CID_ANY else self.cid}:{self.port}"
            case "vsock+unix":
                return f"vsock+unix://{self.path}:{self.port}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches a listener here."""
        if self.scheme != "tcp":
            return self.scheme == "unix"
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def listening_path(self) -> str:
        """The socket file of a listener here, "" for one that has none.

        A hybrid vsock's hypervisor connects to ``<path>_<port>`` when the other side calls that port.
        """
        return f"{self.path}_{self.port}" if self.scheme == "vsock+unix" else self.path


def _check_length(text: str, path: str) -> None:
    if len(os.fsencode(path)) > _UNIX_PATH_BYTES:
        raise ConfigurationError(
            f"address {text!r}: a Unix socket's path holds at most {_UNIX_PATH_BYTES} bytes; use a shorter one",
            code="address.malformed",
        )

"""Every error this library raises on purpose.

One base, and a subclass wherever a caller can act differently. Each carries a stable, dotted or upper-case ``code``;
the message says what failed, on whose side, and what to do next. Messages never contain texts, vectors or keys.
"""

from __future__ import annotations


class EphemeralMLError(Exception):
    """Base of every deliberate error; ``code`` is stable across releases, the message is not."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class CodecError(EphemeralMLError):
    """Bytes that are not strict CBOR or not the COSE_Sign1 structure asked for."""


class AttestationError(EphemeralMLError):
    """Evidence that was refused.

    ``step`` names the step of the verdict that failed (``parse``, ``signature``, ``chain``, ``freshness``,
    ``measurements``, ``key binding``, ``model``); ``verdict`` is the full table up to it, where one was made.
    """

    def __init__(self, message: str, *, step: str, code: str, verdict: object | None = None) -> None:
        super().__init__(message, code=code)
        self.step = step
        self.verdict = verdict


class PolicyError(EphemeralMLError):
    """A policy that cannot be built, loaded or saved: it would not protect anybody."""


class ConfigurationError(EphemeralMLError):
    """A configuration file, address or argument that cannot work."""


class PlatformError(EphemeralMLError):
    """What lies under an enclave cannot be trusted (its kernel's random numbers, its clock): it does not serve."""


class ModelError(EphemeralMLError):
    """A model folder or set of buffers that cannot be loaded."""


class UnsupportedModelError(ModelError):
    """A model whose architecture, pooling or precision this release does not run; refused when packing."""


class PackageError(EphemeralMLError):
    """An encrypted package that is damaged, forged, incomplete, too old or not for this enclave.

    ``verdict`` is the table up to a bundle's manifest, where that is what was refused.
    """

    verdict: object | None = None


class ImageError(EphemeralMLError):
    """An enclave image that is damaged, malformed or not signed as it claims, or pieces that make no image."""


class KeyReleaseError(EphemeralMLError):
    """The model's key was not released, or what came back cannot be trusted."""


class ReceiptError(EphemeralMLError):
    """A receipt or bundle that was refused.

    ``layer``: 1 parse, 2 signature, 3 claims, 4 policy, 5 evidence. ``code`` is the draft's name for the failure.
    """

    def __init__(self, message: str, *, layer: int, code: str, verdict: object | None = None) -> None:
        super().__init__(message, code=code)
        self.layer = layer
        self.verdict = verdict


class TransportError(EphemeralMLError):
    """The peer cannot be reached, went away, or did not answer in time. Nothing is known of the answer."""


class SessionError(EphemeralMLError):
    """The sealed session was violated or ended: a bad frame, a record that does not open, a wrong message."""


class RequestError(EphemeralMLError):
    """The enclave understood the request and refuses it (too large, malformed); sending it again will not help."""


class BusyError(EphemeralMLError):
    """The enclave is at a limit. Safe to retry after ``retry_after`` seconds."""

    def __init__(self, message: str, *, code: str = "busy", retry_after: float = 1.0) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


def docs_link(code: str) -> str:
    """Where a code is explained: a path in this repository, and the heading there."""
    # Those in capitals are the receipt draft's and stand in one table.
    family = "receipt-codes" if code[:1].isupper() else code.partition(".")[0]
    return f"docs/errors.md#{family}"

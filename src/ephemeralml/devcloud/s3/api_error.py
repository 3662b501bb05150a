"""The one error this server answers with: S3's code, message and HTTP status, in XML."""

from __future__ import annotations

from ephemeralml.devcloud.sigv4 import Refusal, SignatureRefusedError


class S3Error(Exception):
    """An S3 API error; ``code`` is what boto3 shows as ``error.response["Error"]["Code"]``."""

    def __init__(self, code: str, message: str, *, status: int) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


def access_denied() -> S3Error:
    """The principal may not do that."""
    return S3Error("AccessDenied", "Access Denied", status=403)


def not_implemented(what: str) -> S3Error:
    """S3 knows it, this server does not."""
    return S3Error("NotImplemented", f"{what} is not implemented here.", status=501)


def signature_refused(error: SignatureRefusedError) -> S3Error:
    """S3's name for what is wrong with a signature."""
    code, status = {
        Refusal.UNSIGNED: ("AccessDenied", 403),
        Refusal.INCOMPLETE: ("AuthorizationHeaderMalformed", 400),
        Refusal.SCOPE: ("AuthorizationHeaderMalformed", 400),
        Refusal.UNKNOWN_KEY: ("InvalidAccessKeyId", 403),
        Refusal.EXPIRED: ("RequestTimeTooSkewed", 403),
        Refusal.MISMATCH: ("SignatureDoesNotMatch", 403),
    }[error.reason]
    return S3Error(code, str(error), status=status)

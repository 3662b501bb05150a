"""The one error this server answers with: AWS's error type, message and HTTP status."""

from __future__ import annotations

from typing import Final

MALFORMED_POLICY: Final = "MalformedPolicyDocumentException"
VALIDATION: Final = "ValidationException"


class ApiError(Exception):
    """An AWS API error; ``type`` is what boto3 shows as ``error.response["Error"]["Code"]``."""

    def __init__(self, type_: str, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.type = type_
        self.status = status

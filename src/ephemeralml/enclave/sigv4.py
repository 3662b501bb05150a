"""AWS Signature Version 4 for the one request an enclave makes: ``POST /`` of KMS Decrypt.

Source: AWS IAM User Guide, "Create a signed AWS API request".
"""

from __future__ import annotations

import hmac
from datetime import datetime
from hashlib import sha256
from typing import Final

from ephemeralml.session.tunnel import Credentials, Endpoint

_ALGORITHM: Final = "AWS4-HMAC-SHA256"


def signed_headers(body: bytes, *, endpoint: Endpoint, credentials: Credentials, now: datetime) -> dict[str, str]:
    """The header fields of the request, names in lower case, ``authorization`` last; `now` is in UTC."""
    date = now.strftime("%Y%m%dT%H%M%SZ")
    # In the order of their names, as they are signed.
    headers = {
        "content-type": "application/x-amz-json-1.1",
        "host": endpoint.host,
        "x-amz-date": date,
        "x-amz-security-token": credentials.session_token,
        "x-amz-target": "TrentService.Decrypt",
    }
    names = ";".join(headers)
    lines = [f"{name}:{value}" for name, value in headers.items()]
    canonical = "\n".join(["POST", "/", "", *lines, "", names, sha256(body).hexdigest()])
    scope = f"{date[:8]}/{endpoint.region}/kms/aws4_request"
    to_sign = f"{_ALGORITHM}\n{date}\n{scope}\n{sha256(canonical.encode()).hexdigest()}"
    key = b"AWS4" + credentials.secret_access_key.encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    authorization = (
        f"{_ALGORITHM} Credential={credentials.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return {**headers, "authorization": authorization}

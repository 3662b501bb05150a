"""Key release over TLS that ends inside the enclave: the host carries a stream to KMS, and reads or changes nothing."""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import Iterable
from datetime import UTC, datetime

from ephemeralml.enclave.http_answer import read_answer
from ephemeralml.enclave.sigv4 import signed_headers
from ephemeralml.enclave.upstream import Upstream
from ephemeralml.errors import KeyReleaseError, TransportError
from ephemeralml.package import KeyRecord
from ephemeralml.session.kms_errors import bad_answer, refused
from ephemeralml.session.tunnel import Endpoint

# From the first byte of TLS to the last of the answer.
_SECONDS = 20.0


class DirectKms:
    """KMS behind the host's tunnel, known by `roots` (DER) alone; what releases a key in place of the host's broker."""

    def __init__(self, upstream: Upstream, *, roots: Iterable[bytes]) -> None:
        self._upstream = upstream
        # Without the system's store: it names some hundred and fifty others who could vouch for a false KMS.
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self._tls.verify_flags |= ssl.VERIFY_X509_STRICT
        self._tls.hostname_checks_common_name = False
        self._tls.load_verify_locations(cadata=b"".join(roots))

    def release(self, record: KeyRecord, document: bytes) -> bytes:
        """CiphertextForRecipient for the package's key, asked once. Raises `KeyReleaseError`."""
        endpoint = Endpoint.of(record.key_arn)
        try:
            status, body = self._ask(endpoint, _decrypt(record, document))
        except TransportError as error:
            raise KeyReleaseError(f"the model's key was not released: {error}", code=error.code) from error
        except ssl.SSLCertVerificationError as error:
            raise KeyReleaseError(
                f"whoever answers at the end of the host's tunnel is not {endpoint.host}: {error.verify_message}; "
                "check where the host's tunnel leads, the kms_roots of this enclave's configuration, and its clock",
                code="kms.identity",
            ) from error
        except OSError as error:
            raise KeyReleaseError(
                f"KMS did not answer through the host's tunnel ({type(error).__name__}); check the host's network and "
                "endpoint, then start the enclave again",
                code="kms.unreachable",
            ) from error
        return _checked(status, body, record.key_arn)

    def _ask(self, endpoint: Endpoint, body: bytes) -> tuple[int, bytes]:
        with self._upstream.tunnel() as (connection, credentials):
            deadline = time.monotonic() + _SECONDS
            connection.settimeout(_SECONDS)
            with self._tls.wrap_socket(connection, server_hostname=endpoint.host) as tls:

                def bounded() -> ssl.SSLSocket:
                    # A byte now and then is no way around the deadline.
                    if (left := deadline - time.monotonic()) <= 0:
                        raise TimeoutError
                    tls.settimeout(left)
                    return tls

                def read(size: int) -> bytes:
                    if not (data := bounded().recv(size)):
                        raise ConnectionError
                    return data

                headers = signed_headers(body, endpoint=endpoint, credentials=credentials, now=datetime.now(UTC))
                lines = [f"{name}: {value}" for name, value in headers.items()]
                head = "\r\n".join(["POST / HTTP/1.1", *lines, f"content-length: {len(body)}", "", ""])
                bounded().sendall(head.encode() + body)
                return read_answer(read)


def _decrypt(record: KeyRecord, document: bytes) -> bytes:
    return json.dumps(
        {
            "KeyId": record.key_arn,
            "CiphertextBlob": base64.b64encode(record.wrapped_dek).decode(),
            "EncryptionContext": dict(record.encryption_context),
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "Recipient": {
                "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
                "AttestationDocument": base64.b64encode(document).decode(),
            },
        }
    ).encode()


def _checked(status: int, body: bytes, key_arn: str) -> bytes:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise bad_answer(f"it is not JSON as KMS writes it (HTTP {status})")
    if status != 200:
        # The type may have a namespace before it (AWS JSON 1.1 protocol).
        raise refused("Decrypt", str(answer.get("__type", "")).rpartition("#")[2], status=status)
    if answer.get("Plaintext"):
        raise bad_answer("it carries the key in plaintext, as if no Recipient had been asked for")
    if answer.get("KeyId") != key_arn:
        raise bad_answer("it names another key than the one asked for")
    try:
        sealed = base64.b64decode(answer.get("CiphertextForRecipient") or "", validate=True)
    except (ValueError, TypeError):
        sealed = b""
    if not sealed:
        raise bad_answer("CiphertextForRecipient is missing")
    return sealed

"""The KMS as a server on one address."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ephemeralml.attestation import Policy
from ephemeralml.devcloud.app_server import AppServer, bind
from ephemeralml.devcloud.kms.app import OnAnswer, make_app
from ephemeralml.devcloud.kms.operations import Operations
from ephemeralml.devcloud.kms.store import KeyStore
from ephemeralml.devcloud.sigv4 import Credential
from ephemeralml.errors import ConfigurationError

DEFAULT_REGION: Final = "us-east-1"
DEFAULT_ACCOUNT_ID: Final = "000000000000"


class KmsServer(AppServer):
    """A KMS on one address, over one key store. Listens from construction on; serves in a ``with``.

    Not confidential: key material and root certificates are this machine's own.
    """

    def __init__(
        self,
        *,
        store: Path,
        credentials: Sequence[Credential],
        roots: Sequence[bytes],
        host: str = "127.0.0.1",
        port: int = 0,
        region: str = DEFAULT_REGION,
        account_id: str = DEFAULT_ACCOUNT_ID,
        on_answer: OnAnswer = lambda *_: None,
    ) -> None:
        """`roots` are DER certificates accepted besides the AWS Nitro root; port 0 takes a free one.

        Raises `ConfigurationError` when the address is in use or the key store cannot be opened, `PolicyError` for
        something in `roots` that is no certificate.
        """
        evidence = Policy.insecure_any_measurement(extra_roots=roots)
        self.region: Final = region
        listening = bind(host, port, service="kms")
        try:
            self._store = KeyStore(store)
        except ConfigurationError:
            listening.close()
            raise
        operations = Operations(store=self._store, evidence=evidence, region=region, account_id=account_id)
        by_id = {item.access_key_id: item for item in credentials}
        app = make_app(operations, credentials=by_id, region=region, on_answer=on_answer)
        super().__init__(app, listening, service="kms")

    def close(self) -> None:
        """Stop listening and close the key store."""
        super().close()
        self._store.close()

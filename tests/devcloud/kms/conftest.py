"""A running KMS, boto3 clients for two principals, and attestation documents of a software NSM."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from connecting import connecting
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ephemeralml.codec import cbor
from ephemeralml.devcloud.kms import Credential, KmsServer
from ephemeralml.devcloud.nsm import SoftwareNsm
from ephemeralml.devcloud.root import DevelopmentRoot

OWNER = Credential("AKIDOWNER", "owner-secret", "arn:aws:iam::000000000000:user/owner")
HOST = Credential("AKIDHOST", "host-secret", "arn:aws:iam::000000000000:role/host")


@pytest.fixture(scope="session")
def root() -> DevelopmentRoot:
    return DevelopmentRoot.create()


@pytest.fixture(scope="session")
def enclave_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="session")
def attest(root: DevelopmentRoot, enclave_key: rsa.RSAPrivateKey) -> Callable[..., bytes]:
    """Makes a document: `pcrs` by index, under `issuer` (the server's root), carrying `public_key` (the enclave's)."""
    own = enclave_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def make(
        pcrs: Mapping[int, bytes], *, issuer: DevelopmentRoot | None = None, public_key: bytes | None = own
    ) -> bytes:
        nsm = SoftwareNsm(issuer or root, pcrs)
        request = {"Attestation": {"user_data": None, "nonce": None, "public_key": public_key}}
        answer: Any = cbor.decode_foreign(nsm.handle(cbor.encode(request)))
        document: bytes = answer["Attestation"]["document"]
        return document

    return make


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, root: DevelopmentRoot) -> Iterator[KmsServer]:
    store = tmp_path_factory.mktemp("kms") / "kms.sqlite"
    with KmsServer(store=store, credentials=[OWNER, HOST], roots=[root.der]) as running:
        yield running


@pytest.fixture(scope="session")
def session() -> boto3.session.Session:
    return boto3.session.Session()


@contextmanager
def refused(kind: str) -> Iterator[None]:
    with pytest.raises(ClientError) as caught:
        yield
    error = caught.value.response["Error"]
    assert error["Code"] == kind, error


@pytest.fixture
def connect(server: KmsServer, session: boto3.session.Session) -> Iterator[Callable[..., Any]]:
    """Makes boto3 clients, unchanged but for one attempt a call."""
    with connecting(session, "kms", server.url) as make:
        yield make


@pytest.fixture
def owner(connect: Callable[..., Any]) -> Any:
    return connect(OWNER)


@pytest.fixture
def host(connect: Callable[..., Any]) -> Any:
    return connect(HOST)

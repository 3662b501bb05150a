"""A local AWS KMS: unchanged boto3 in front, real cryptography, key policies and attestation behind."""

from ephemeralml.devcloud.kms.server import KmsServer
from ephemeralml.devcloud.sigv4 import Credential

__all__ = ["Credential", "KmsServer"]

"""A local S3: unchanged boto3 in front, signatures checked, objects in files; the part of the API that is used here."""

from ephemeralml.devcloud.s3.server import S3Server

__all__ = ["S3Server"]

"""Packages in S3: read by the host, written by the model owner's `push`. Needs boto3, the extra ``host``."""

from __future__ import annotations

from importlib.util import find_spec

from ephemeralml.errors import ConfigurationError

if find_spec("boto3") is None:
    raise ConfigurationError("s3:// needs boto3: pip install 'ephemeralml[host]'", code="s3.boto3")

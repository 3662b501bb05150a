"""The data owner's side."""

from __future__ import annotations

from ephemeralml.client.batches import normalized
from ephemeralml.client.client import Client
from ephemeralml.client.result import EmbedResult

__all__ = ["Client", "EmbedResult", "normalized"]

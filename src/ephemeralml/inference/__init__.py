"""Texts to vectors on the CPU: tokenizer → batcher → encoder → pooling."""

from __future__ import annotations

from ephemeralml.inference.batcher import Batcher, Embedded
from ephemeralml.inference.encoder import Encoder

__all__ = ["Batcher", "Embedded", "Encoder"]

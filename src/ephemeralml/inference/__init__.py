"""Texts to vectors on the CPU: tokenizer → batcher → encoder → pooling."""

from __future__ import annotations

import os

# ONNX Runtime reads it as it is imported, and would otherwise note its use for its maker.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from ephemeralml.inference.batcher import Batcher, Embedded
from ephemeralml.inference.encoder import Encoder, load_library

__all__ = ["Batcher", "Embedded", "Encoder", "load_library"]

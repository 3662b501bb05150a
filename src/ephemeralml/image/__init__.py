"""Enclave images (EIF): build one, measure it, read it, tell two apart."""

from __future__ import annotations

from ephemeralml.image.builder import build
from ephemeralml.image.describe import describe, diff
from ephemeralml.image.layout import Header, SectionKind
from ephemeralml.image.metadata import Metadata
from ephemeralml.image.pcrs import measure
from ephemeralml.image.reader import Image, Section, measure_eif, read

__all__ = [
    "Header",
    "Image",
    "Metadata",
    "Section",
    "SectionKind",
    "build",
    "describe",
    "diff",
    "measure",
    "measure_eif",
    "read",
]

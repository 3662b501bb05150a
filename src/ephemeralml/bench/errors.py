"""What stops a benchmark."""

from __future__ import annotations

from ephemeralml.errors import EphemeralMLError


class BenchError(EphemeralMLError):
    """A run that would give a wrong figure, or none."""

"""Whether a stream is a terminal that can redraw what it shows."""

from __future__ import annotations

import os
from typing import TextIO


def can_redraw(stream: TextIO) -> bool:
    """Whether a bar may be drawn there. Not where FORCE_COLOR asks for colours in a log: a bar would fill it."""
    return stream.isatty() and os.environ.get("TERM") not in {"dumb", "unknown"}

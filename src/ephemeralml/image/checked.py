"""A file that was checked and stays so: a copy of the builder's own, hashed while it is made.

Others may write a cache. What is looked at, closed and opened again may be another file by then.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from pathlib import Path

from ephemeralml.errors import ImageError
from ephemeralml.image.pieces import blocks


def checked_copy(source: Path, folder: Path, digest: str) -> Path:
    """Copy `source` into `folder`, made when it is not there. `digest` is the SHA-256 it must have, hex.

    Raises OSError and `ImageError` (``image.hash``); no copy stays then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copy, found = folder / source.name, sha256()
    with copy.open("xb") as file:
        for block in blocks(source):
            found.update(block)
            file.write(block)
    if not hmac.compare_digest(found.hexdigest(), digest):
        copy.unlink()
        raise ImageError(
            f"{source} changed while it was used: its SHA-256 is another than the list's", code="image.hash"
        )
    return copy

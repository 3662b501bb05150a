"""The auditor's page: write it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ephemeralml.cli.output import AsJson, print_json
from ephemeralml.files import write_whole
from ephemeralml.inspector import build_page


def inspector(*, out: Annotated[Path, typer.Option(help="The page, one HTML file.")], as_json: AsJson = False) -> None:
    """Write the page that verifies a bundle in a browser. It works offline and judges as `verify` does.

    Example: ephemeralml inspector --out inspector.html
    """
    write_whole(out, build_page().encode())
    if as_json:
        print_json({"page": str(out)})
        return
    print(f"wrote {out}: open it in a browser and drop a bundle on it")

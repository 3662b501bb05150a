#!/usr/bin/env python3
"""Build the docs site with the Zensical beside this Python: `make docs`.

The site has the repository's own layout: its pages, and the files that they link to. So one relative link leads to the
same file on a forge, in an editor and in the site.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

_CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)|<(?:img|source|a)\b[^>]*?\b(?:src|srcset|href)=\"([^\"]+)\"")


def main() -> None:
    """Gather what the site is made of, and build it; any broken link ends it."""
    settings = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    source, site = ROOT / settings["docs_dir"], ROOT / settings["site_dir"]
    files, problems = gather(ROOT, settings)
    if problems:
        sys.exit("\n".join(["The site is not built.", *problems]))
    for folder in (source, site):
        shutil.rmtree(folder, ignore_errors=True)
    for file in files:
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, source / file)
    build = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    sys.exit(subprocess.run(build, cwd=ROOT, check=False).returncode)  # noqa: S603 - this very Python


def gather(root: Path, settings: dict[str, Any]) -> tuple[set[Path], list[str]]:
    """The files of the site, relative to `root`, and what is wrong with its navigation and its links."""
    pages = [Path(page) for page in _leaves(settings["nav"])]
    there = {path.relative_to(root) for path in (root / "docs").rglob("*.md")}
    lost, unlisted = [page for page in pages if not (root / page).is_file()], sorted(there.difference(pages))
    problems = [f"zensical.toml: the navigation has {page}, which is not there" for page in lost]
    problems += [f"zensical.toml: the navigation lacks {page}" for page in unlisted]
    todo = [page for page in pages if (root / page).is_file()]
    todo += {Path(settings["theme"][picture]) for picture in ("favicon", "logo")}
    files: set[Path] = set()
    while todo:
        file = todo.pop()
        if file in files:
            continue
        files.add(file)
        for target in sorted(links((root / file).read_text(encoding="utf-8"))) if file.suffix == ".md" else ():
            linked = (root / file.parent / target).resolve()
            if linked.is_file() and linked.is_relative_to(root):
                todo.append(linked.relative_to(root))
            else:
                problems.append(f"{file}: links to {target}, which is no file of this repository")
    return files, problems


def links(markdown: str) -> set[str]:
    """The relative paths that a page links to, without their anchors."""
    paths = {(found[1] or found[2]).partition("#")[0] for found in _LINK.finditer(_CODE.sub("", markdown))}
    return {path for path in paths if path and not re.match(r"[a-z]+:", path)}


def _leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for item in nav.values() if isinstance(nav, dict) else nav:
            yield from _leaves(item)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Pin Debian packages and all they depend on, by hash.

`scripts/lock_debs.py SUITE[,SUITE] PACKAGE… > deploy/image/NAME.debs`. The first suite wins where several have a
package; with `--no-depends`, the packages named and no others; with `--exclude A,B`, neither these nor what only they
need.
"""

from __future__ import annotations

import argparse
import lzma
import re
import sys
import urllib.request
from datetime import UTC, datetime

from ephemeralml.image.debian import default_mirror

_ALTERNATIVE = re.compile(r"\s*([a-z0-9][a-z0-9+.-]+)(?::any)?\s*(?:\([^)]*\))?")


def index(suite: str) -> dict[str, dict[str, str]]:
    """The suite's packages for amd64 by name; of several versions the last one listed, the newest."""
    with urllib.request.urlopen(f"{default_mirror()}/dists/{suite}/main/binary-amd64/Packages.xz") as answer:  # noqa: S310
        text = lzma.decompress(answer.read()).decode()
    packages = {}
    for paragraph in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        if fields:
            packages[fields["Package"]] = fields
    return packages


def main() -> None:
    """Print the list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites")
    parser.add_argument("packages", nargs="+")
    parser.add_argument("--no-depends", action="store_true")
    parser.add_argument("--exclude", default="")
    arguments = parser.parse_args()
    known: dict[str, dict[str, str]] = {}
    for suite in reversed(arguments.suites.split(",")):
        known |= index(suite)
    provided = {name: package["Package"] for package in known.values() for name in names(package.get("Provides", ""))}
    excluded, found, waiting = set(arguments.exclude.split(",")), {}, list(arguments.packages)
    while waiting:
        name = waiting.pop()
        package = known.get(name) or known.get(provided.get(name, ""))
        if package is None:
            sys.exit(f"{arguments.suites} has no package {name}")
        if package["Package"] in excluded or package["Package"] in found:
            continue
        found[package["Package"]] = package
        if not arguments.no_depends:
            waiting += names(package.get("Pre-Depends", "")) + names(package.get("Depends", ""))
    print(f"# {arguments.suites} of {datetime.now(UTC):%Y-%m-%d}: {' '.join(sys.argv[1:])}")
    for _, package in sorted(found.items()):
        print(package["SHA256"], package["Size"].rjust(9), package["Filename"])


def names(field: str) -> list[str]:
    """The first alternative of each dependency."""
    return [match[1] for part in field.split(",") if (match := _ALTERNATIVE.match(part))]


if __name__ == "__main__":
    main()

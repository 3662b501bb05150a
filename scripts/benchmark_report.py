#!/usr/bin/env python3
"""The report of a run: its page in Markdown and HTML, and the pictures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ephemeralml.bench.suite.report import write_report
from ephemeralml.errors import EphemeralMLError


def main() -> int:
    """Write the page, its HTML and its pictures; print their paths."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--baseline", type=Path, help="bare metal's result; without one there are no overheads")
    parser.add_argument("--enclave", type=Path, required=True)
    parser.add_argument("--more", type=Path, nargs="*", default=[], help="results of other platforms")
    parser.add_argument("--prices", type=Path, help="JSON of what an hour costs")
    parser.add_argument("--output", type=Path, default=Path("benchmark_report.md"))
    arguments = parser.parse_args()
    results = [*([arguments.baseline] if arguments.baseline else []), arguments.enclave, *arguments.more]
    try:
        for path in write_report(results, arguments.output, prices=arguments.prices):
            print(path)
    except (EphemeralMLError, OSError) as error:
        print(f"benchmark_report: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The auditor's command: verify a bundle."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ephemeralml.attestation import Policy
from ephemeralml.cli.output import AsJson, print_json
from ephemeralml.errors import AttestationError, EphemeralMLError, PackageError, ReceiptError, docs_link
from ephemeralml.files import write_whole
from ephemeralml.receipts import Bundle, BundleVerdict, verify_bundle


def verify(
    bundle: Annotated[Path, typer.Argument(help="An .aer file: a bundle, or several.")],
    *,
    policy: Annotated[Path, typer.Option(help="What to trust: a policy's file.")],
    at: Annotated[str | None, typer.Option(help="Time to verify at (ISO 8601); default: the document's own.")] = None,
    as_json: AsJson = False,
    html: Annotated[Path | None, typer.Option(help="Write the verdict as a page too, accepted or refused.")] = None,
) -> None:
    """Verify a bundle offline. Exit status 0 only if everything holds, 1 if not, 2 for usage.

    Example: ephemeralml verify proof.aer --policy policy.json --html report.html
    """
    trusted = Policy.load(policy)
    when = _time(at)
    # A file that is not there is the caller's mistake, not a verdict.
    if not bundle.is_file():
        raise typer.BadParameter(f"{bundle} is not a file")
    held = 0
    try:
        for data in Bundle.split(bundle):
            verdict = verify_bundle(data, policy=trusted, at=when)
            held += 1
    except EphemeralMLError as error:
        if held:
            print(f"{held} bundles of the file hold; the next one does not:", file=sys.stderr)
        _report(error, trusted, bundle, html)
        _print_refusal(error, as_json=as_json)
        raise typer.Exit(1) from None
    _report(verdict, trusted, bundle, html)
    if as_json:
        steps = [{"name": step.name, "ok": step.ok, "detail": step.detail} for step in verdict.steps]
        print_json(
            {
                "ok": True,
                "bundles": held,
                "platform": verdict.platform,
                "confidential": verdict.confidential,
                "steps": steps,
            }
        )
    else:
        print(verdict)
        if held > 1:
            print(f"{held} bundles, and each holds; this is the last one's table")


def _report(result: BundleVerdict | EphemeralMLError, policy: Policy, bundle: Path, html: Path | None) -> None:
    if html is None:
        return
    from ephemeralml.inspector import render_report  # noqa: PLC0415  most verdicts are only printed

    write_whole(html, render_report(result, policy=policy, name=bundle.name).encode())


def _print_refusal(error: EphemeralMLError, *, as_json: bool) -> None:
    if as_json:
        print_json({"ok": False, "code": error.code, "error": str(error), "docs": docs_link(error.code)})
        return
    if isinstance(error, (AttestationError, PackageError, ReceiptError)) and error.verdict is not None:
        print(error.verdict)
    print(f"refused: {error} [{error.code}] {docs_link(error.code)}")


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not an ISO 8601 time, such as 2026-11-23T12:00:00Z") from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)

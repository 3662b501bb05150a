"""The auditor's command: verify a bundle."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ephemeralml.attestation import Policy
from ephemeralml.cli.output import AsJson, print_json
from ephemeralml.errors import AttestationError, EphemeralMLError, PackageError, ReceiptError, docs_link
from ephemeralml.files import write_whole
from ephemeralml.inspector import Findings, judge_file, render_report
from ephemeralml.receipts import BundleVerdict


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
    findings = judge_file(bundle, policy=trusted, at=when)
    if html is not None:
        write_whole(html, render_report(findings, policy=trusted, name=bundle.name).encode())
    if as_json:
        print_json(_as_json(findings))
    else:
        _print(findings)
    if findings.refused:
        raise typer.Exit(1)


def _as_json(findings: Findings) -> dict[str, object]:
    shown = findings.shown
    if isinstance(shown, EphemeralMLError):
        refused = [{"bundle": number, "code": findings.bundles[number - 1].code} for number in findings.refused]
        answer = {"ok": False, "code": shown.code, "error": str(shown), "docs": docs_link(shown.code)}
        return answer | {"bundles": len(findings.bundles), "refused": refused}
    return {
        "ok": True,
        "bundles": len(findings.bundles),
        "platform": shown.platform,
        "confidential": findings.kind == "verified",
        "steps": [{"name": step.name, "ok": step.ok, "detail": step.detail} for step in shown.steps],
    }


def _print(findings: Findings) -> None:
    shown = findings.shown
    if isinstance(shown, BundleVerdict):
        print(shown)
        if findings.summary:
            print(f"{findings.summary}; this is the last one's table")
            if shown.confidential and findings.kind != "verified":
                print("NOT all of them are confidential: --html lists them")
        return
    if isinstance(shown, (AttestationError, PackageError, ReceiptError)) and shown.verdict is not None:
        print(shown.verdict)
    print(f"refused: {shown} [{shown.code}] {docs_link(shown.code)}")
    if findings.summary:
        print(findings.summary)


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not an ISO 8601 time, such as 2026-11-23T12:00:00Z") from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)

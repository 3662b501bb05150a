"""A verdict as a static page, in the inspector's look: no script, nothing from a file but escaped text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from string import Template
from typing import Final

from ephemeralml.attestation import AttestationDocument, Policy, Step, Verdict
from ephemeralml.errors import EphemeralMLError
from ephemeralml.inspector.findings import Findings
from ephemeralml.inspector.page import content_policy, read_source, read_words
from ephemeralml.receipts import BundleVerdict, Claims

_PAGE: Final = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>EphemeralML receipt report</title>
<style>$style</style>
</head>
<body>
<main>
<h1>Receipt report</h1>
<p>What <code>ephemeralml verify</code> found in <code>$name</code>.
A report shows: who wants proof verifies the bundle again.</p>
$body
</main>
</body>
</html>
""")


MAX_LINES: Final = 10_000
"""Bundles that a report lists; it counts the others."""


def render_report(findings: Findings, *, policy: Policy, name: str) -> str:
    """The page for what `judge_file` found under `policy`; `name` is the file's."""
    body = [*_banner(findings), *_bundles(findings)]
    shown = findings.shown
    body += _accepted(shown, policy) if isinstance(shown, BundleVerdict) else _refused(shown)
    style = read_source("page.css")
    return _PAGE.substitute(
        policy=content_policy(style=style), style=style, name=escape(name, quote=True), body="\n".join(body)
    )


def _banner(findings: Findings) -> Iterator[str]:
    shown = findings.shown
    titles, code = read_words()["titles"], None
    if isinstance(shown, BundleVerdict):
        sentence = shown.evidence.summary
        if findings.kind == "not-confidential" and shown.confidential:
            sentence = "not all of them are confidential"
    else:
        sentence, code = str(shown), shown.code
    yield f'<div class="verdict {findings.kind}"><h2>{titles[findings.kind]}</h2>'
    yield from (f"<p>{escape(words)}</p>" for words in (findings.summary, sentence) if words)
    if code is not None:
        yield f"<p>Code: <code>{escape(code)}</code></p>"
    yield "</div>"


def _bundles(findings: Findings) -> Iterator[str]:
    if len(findings.bundles) == 1:
        return
    titles = read_words()["titles"]
    yield '<h2>Bundles</h2>\n<ol class="bundles">'
    for number, found in enumerate(findings.bundles[:MAX_LINES], 1):
        mark = "✗ refused" if found.kind == "refused" else titles[found.kind].lower()
        words = escape(found.words)
        if found.code is not None:
            words = f"<code>{escape(found.code)}</code> {words}"
        yield f'<li class="{found.kind}">Bundle {number}: <span class="mark">{mark}</span>, {words}</li>'
    yield "</ol>"
    if (more := len(findings.bundles) - MAX_LINES) > 0:
        yield f"<p>And {more} more.</p>"
    which = findings.refused[0] if findings.refused else len(findings.bundles)
    yield f"<p>What follows is of bundle {which}.</p>"


def _accepted(verdict: BundleVerdict, policy: Policy) -> Iterator[str]:
    yield from _steps(verdict.steps)
    yield "<h2>What this does not prove</h2>"
    yield "<ul>"
    yield from (f"<li>{escape(text)}</li>" for text in _limits(policy))
    yield "</ul>"
    yield "<h2>What the receipt says</h2>"
    yield "<dl>"
    for fact, value in (*_claims(verdict.receipt.claims), *_registers(verdict.document)):
        yield f'<dt>{escape(fact)}</dt><dd class="value">{escape(value)}</dd>'
    yield "</dl>"


def _refused(error: EphemeralMLError) -> Iterator[str]:
    verdict = getattr(error, "verdict", None)
    if isinstance(verdict, Verdict):
        yield from _steps(verdict.steps)


def _steps(steps: Sequence[Step]) -> Iterator[str]:
    yield '<h2>Step by step</h2>\n<ol class="steps">'
    for index, (name, meaning) in enumerate(read_words()["steps"].items()):
        step = steps[index] if index < len(steps) else None
        state, mark = _state(step)
        yield f'<li class="{state}"><span class="mark">{mark}</span><h3>{name}</h3>'
        yield f'<p class="quiet">{escape(meaning)}</p>'
        if step is not None:
            yield f'<p class="value">{escape(step.detail)}</p>'
        yield "</li>"
    yield "</ol>"


def _state(step: Step | None) -> tuple[str, str]:
    if step is None:
        return "skipped", "not reached"
    if not step.ok:
        return "failed", "✗ refused"
    return ("unchecked", "! unchecked") if step.detail.startswith("NOT CHECKED") else ("passed", "✓ proved")


def _limits(policy: Policy) -> list[str]:
    limits: dict[str, str] = read_words()["limits"]
    left_out = set() if policy.insecure else {"measurements"}
    left_out |= {"owner"} if policy.models else set()
    return [text for key, text in limits.items() if key not in left_out]


def _claims(claims: Claims) -> Iterator[tuple[str, str]]:
    for name in Claims.__dataclass_fields__:
        value = getattr(claims, name)
        if name == "iat":
            yield name, f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S} UTC"
        elif name != "enclave_measurements" and value is not None:
            yield name, value.hex() if isinstance(value, bytes) else f"{value}"


def _registers(document: AttestationDocument) -> Iterator[tuple[str, str]]:
    for index, register in sorted(document.pcrs.items()):
        if any(register) or index < 3:
            yield f"PCR{index}", register.hex()

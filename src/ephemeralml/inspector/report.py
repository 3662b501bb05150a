"""A verdict as a static page, in the inspector's look: no script, nothing from a file but escaped text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from string import Template
from typing import Final

from ephemeralml.attestation import AttestationDocument, Policy, Step, Verdict
from ephemeralml.errors import EphemeralMLError
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


def render_report(result: BundleVerdict | EphemeralMLError, *, policy: Policy, name: str) -> str:
    """The page for what `verify_bundle` returned or raised under `policy`; `name` is the bundle's."""
    body = _accepted(result, policy) if isinstance(result, BundleVerdict) else _refused(result)
    style = read_source("page.css")
    return _PAGE.substitute(
        policy=content_policy(style=style), style=style, name=escape(name, quote=True), body="\n".join(body)
    )


def _accepted(verdict: BundleVerdict, policy: Policy) -> Iterator[str]:
    kind = "verified" if verdict.confidential else "not-confidential"
    yield from _banner(kind, verdict.evidence.summary, None)
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
    yield from _banner("refused", f"{error}", error.code)
    verdict = getattr(error, "verdict", None)
    if isinstance(verdict, Verdict):
        yield from _steps(verdict.steps)


def _banner(kind: str, sentence: str, code: str | None) -> Iterator[str]:
    yield f'<div class="verdict {kind}"><h2>{read_words()["titles"][kind]}</h2><p>{escape(sentence)}</p>'
    if code is not None:
        yield f"<p>Code: <code>{escape(code)}</code></p>"
    yield "</div>"


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

"""What was found of each bundle of a file, and of the file as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ephemeralml.attestation import Policy
from ephemeralml.errors import EphemeralMLError
from ephemeralml.receipts import Bundle, BundleVerdict, verify_bundle


@dataclass(frozen=True, slots=True)
class Finding:
    """One bundle: `kind` is ``verified``, ``not-confidential`` or ``refused``; `code` is a refusal's."""

    kind: str
    code: str | None
    words: str


@dataclass(slots=True)
class Findings:
    """Of all bundles in order; `shown` is of the first that was refused, or else of the last."""

    shown: BundleVerdict | EphemeralMLError
    bundles: list[Finding] = field(default_factory=list)

    @property
    def refused(self) -> list[int]:
        """The numbers, from 1, of those that do not hold."""
        return [number for number, found in enumerate(self.bundles, 1) if found.kind == "refused"]

    @property
    def kind(self) -> str:
        """The file is as good as the worst of its bundles."""
        kinds = {found.kind for found in self.bundles}
        return next(kind for kind in ("refused", "not-confidential", "verified") if kind in kinds)

    @property
    def summary(self) -> str:
        """How many, and how many of them hold; empty for a single one."""
        if len(self.bundles) == 1:
            return ""
        if not self.refused:
            return f"{len(self.bundles)} bundles, and each holds"
        return f"{len(self.refused)} of {len(self.bundles)} bundles refused, the first is number {self.refused[0]}"


def judge_file(path: Path, *, policy: Policy, at: datetime | None = None) -> Findings:
    """Verify each bundle of a file, refused ones included; what is no bundle ends it, for nobody knows where that ends.

    Raises `ReceiptError` (``BUNDLE_READ``).
    """
    findings: Findings | None = None
    for data in Bundle.split(path):
        result = _judge(data, policy, at)
        if findings is None:
            findings = Findings(result)
        elif isinstance(findings.shown, BundleVerdict):
            findings.shown = result
        findings.bundles.append(_finding(result))
        if isinstance(result, EphemeralMLError) and result.code.startswith("BUNDLE_"):
            break
    assert findings is not None, "a file is split into one bundle at least"
    return findings


def _judge(data: bytes, policy: Policy, at: datetime | None) -> BundleVerdict | EphemeralMLError:
    try:
        return verify_bundle(data, policy=policy, at=at)
    except EphemeralMLError as error:
        return error


def _finding(result: BundleVerdict | EphemeralMLError) -> Finding:
    if isinstance(result, EphemeralMLError):
        return Finding("refused", result.code, str(result))
    claims = result.receipt.claims
    issued = f"{datetime.fromtimestamp(claims.iat, UTC):%Y-%m-%d %H:%M:%S}"
    kind = "verified" if result.confidential else "not-confidential"
    return Finding(kind, None, f"receipt {claims.sequence_number}, issued {issued} UTC")

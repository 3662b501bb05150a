"""What verification found: one step a line, and whether the result is confidential at all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from ephemeralml.attestation.document import AttestationDocument

Platform: TypeAlias = Literal["nitro", "local", "unknown"]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of verification: its name, whether it passed, and what it found."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The steps taken so far, in order. Only a verdict that was returned, not raised, is `ok`.

    `platform` is ``nitro`` for evidence under the AWS root, ``local`` under one of the policy's extra roots,
    ``unknown`` before the chain was verified. `insecure`: the policy accepts any measurement.
    """

    parsed: AttestationDocument | None = None
    steps: tuple[Step, ...] = ()
    platform: Platform = "unknown"
    insecure: bool

    def passed(self, name: str, detail: str) -> Verdict:
        """The verdict with one more step that passed."""
        return replace(self, steps=(*self.steps, Step(name, True, detail)))

    def failed(self, name: str, detail: str) -> Verdict:
        """The verdict with the step that refused."""
        return replace(self, steps=(*self.steps, Step(name, False, detail)))

    @property
    def document(self) -> AttestationDocument:
        """The document judged. Raises ValueError on the verdict of bytes that could not be read as one."""
        if self.parsed is None:
            raise ValueError("these bytes are not an attestation document")
        return self.parsed

    @property
    def ok(self) -> bool:
        """Whether every step passed."""
        return bool(self.steps) and all(step.ok for step in self.steps)

    @property
    def confidential(self) -> bool:
        """Whether this is a pinned, non-debug enclave on AWS hardware: nothing else keeps the host out."""
        return not self._reservations()

    def _reservations(self) -> list[str]:
        found = []
        if not self.ok:
            found.append("refused")
        if self.platform == "local":
            found.append("a development root signed it, not AWS")
        elif self.platform == "unknown":
            found.append("its origin is unproven")
        if self.parsed is not None and self.parsed.debug:
            found.append("the enclave runs in debug mode (PCR0 is zero)")
        if self.parsed is not None and self.parsed.nitrotpm:
            found.append("a NitroTPM instance is no enclave")
        if self.insecure:
            found.append("the policy accepts any measurement")
        return found

    @property
    def summary(self) -> str:
        """One line: the platform and, where it applies, why it is not confidential."""
        reservations = self._reservations()
        confidence = f"not confidential: {'; '.join(reservations)}" if reservations else "confidential"
        return f"platform {self.platform}, {confidence}"

    def __str__(self) -> str:
        """The table of steps, ending in the platform and, where it applies, why it is not confidential."""
        width = max((len(step.name) for step in self.steps), default=0)
        lines = [f"{'✓' if step.ok else '✗'} {step.name:<{width}}  {step.detail}" for step in self.steps]
        return "\n".join([*lines, self.summary])

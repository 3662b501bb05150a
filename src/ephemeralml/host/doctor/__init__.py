"""Whether a run would work here: small independent checks, each with its reason and its fix. Nothing is changed."""

from __future__ import annotations

from ephemeralml.host.doctor.checks import Plan, Platform, examine
from ephemeralml.host.doctor.finding import Finding, State, ready

__all__ = ["Finding", "Plan", "Platform", "State", "examine", "ready"]

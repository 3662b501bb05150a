"""`model_version` in receipts: the manifest's version, and what ran where the package is not fp32."""

from __future__ import annotations

from ephemeralml.package.manifest import Manifest
from ephemeralml.package.model import PRECISIONS
from ephemeralml.receipts.claims import Claims


def receipt_version(manifest: Manifest, precision: str) -> str:
    """``"3"`` for an fp32 package of version 3; ``"3+bf16"`` and the like, by the `precision` that ran, for others."""
    version = str(manifest.version)
    return version if manifest.spec.precision == "fp32" else f"{version}+{precision}"


def ran_precision(claims: Claims, manifest: Manifest) -> str | None:
    """The precision the receipt says ran, or None when its `model_version` is none that the manifest allows."""
    allowed = PRECISIONS[manifest.spec.precision]
    return next((ran for ran in allowed if claims.model_version == receipt_version(manifest, ran)), None)

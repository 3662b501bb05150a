"""Attested Execution Receipts: AIR v1 receipts, and the bundle that proves one offline."""

from __future__ import annotations

from ephemeralml.receipts.bundle import Bundle
from ephemeralml.receipts.claims import Claims, EnclaveMeasurements
from ephemeralml.receipts.policy import ReceiptPolicy
from ephemeralml.receipts.receipt import Receipt, issue_receipt, verify_receipt
from ephemeralml.receipts.verify import BundleVerdict, check_evidence, verify_bundle

__all__ = [
    "Bundle",
    "BundleVerdict",
    "Claims",
    "EnclaveMeasurements",
    "Receipt",
    "ReceiptPolicy",
    "check_evidence",
    "issue_receipt",
    "verify_bundle",
    "verify_receipt",
]

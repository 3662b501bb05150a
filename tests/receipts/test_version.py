from __future__ import annotations

from dataclasses import replace

import pytest
from samples import make_manifest

from ephemeralml.package.model import PRECISIONS
from ephemeralml.receipts import Claims
from ephemeralml.receipts.version import ran_precision, receipt_version


@pytest.mark.parametrize(
    ("packed", "named"),
    [
        ("fp32", {"3": "fp32"}),
        ("bf16", {"3+bf16": "bf16", "3+fp32": "fp32"}),
        ("int8", {"3+int8": "int8"}),
    ],
)
def test_exactly_what_the_package_allows(claims: Claims, packed: str, named: dict[str, str]) -> None:
    manifest = make_manifest()
    manifest = replace(manifest, spec=replace(manifest.spec, precision=packed))
    assert {receipt_version(manifest, ran) for ran in PRECISIONS[packed]} == set(named)
    spellings = ("3", "03", "3 ", "4", "3+", "3+fp32", "3+bf16", "3+int8", "3+BF16", "3+bf16+fp32", "4+bf16", "+bf16")
    for version in spellings:
        assert ran_precision(replace(claims, model_version=version), manifest) == named.get(version)

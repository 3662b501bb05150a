from __future__ import annotations

import json
from typing import Any

from eif import BOOT, METADATA, NOT_AFTER, NOT_BEFORE, PLAIN, RAMDISK, forge, reseal

from ephemeralml import image


def test_a_description_is_json_and_complete(signed: bytes) -> None:
    found = image.read(signed)
    content = json.loads(json.dumps(image.describe(found, at=NOT_BEFORE)))
    assert content["version"] == 4
    assert content["architecture"] == "x86_64"
    assert content["crc"]["ok"]
    assert [item["type"] for item in content["sections"]] == [
        *("kernel", "cmdline", "metadata", "ramdisk", "ramdisk", "signature")
    ]
    assert content["measurements"] == found.pcrs
    assert content["metadata"]["ImageName"] == "Unknown"
    assert content["signature"]["subject"] == content["signature"]["issuer"] == "CN=image signer"
    assert content["signature"]["ok"]
    assert content["signature"]["valid_now"]
    assert image.describe(image.read(forge()), at=NOT_BEFORE)["signature"] is None


def test_what_is_wrong_is_shown(signed: bytes) -> None:
    expired = image.describe(image.read(signed), at=NOT_AFTER.replace(year=2050))
    assert not expired["signature"]["valid_now"]
    changed = bytearray(signed)
    changed[600] ^= 1
    content = image.describe(image.read(bytes(changed)), at=NOT_BEFORE)
    assert not content["crc"]["ok"]
    assert "another image" in content["signature"]["problem"]
    content = image.describe(image.read(reseal(bytes(changed))), at=NOT_BEFORE)
    assert content["crc"]["ok"]
    assert not content["signature"]["ok"]


def _diff(left: list[tuple[int, bytes]], right: list[tuple[int, bytes]], **options: Any) -> set[str]:
    return set(image.diff(image.read(forge(left)), image.read(forge(right, **options))))


def test_equal_images_differ_in_nothing(signed: bytes) -> None:
    assert image.diff(image.read(signed), image.read(signed)) == {}
    assert _diff(PLAIN, PLAIN) == set()


def test_a_difference_is_named() -> None:
    assert _diff(PLAIN, PLAIN, flags=1) == {"architecture"}
    assert _diff(PLAIN, [*PLAIN[:4], (RAMDISK, b"other")]) == {"ramdisk 2", "PCR0", "PCR2"}
    assert _diff(PLAIN, [*PLAIN[:3], (RAMDISK, b"other"), PLAIN[4]]) == {"ramdisk 1", "PCR0", "PCR1"}
    assert _diff(PLAIN, PLAIN[:4]) == {"order", "ramdisk 2", "PCR0", "PCR2"}
    assert _diff(PLAIN, [*PLAIN[:2], *PLAIN[3:], PLAIN[2]]) == {"order"}
    metadata = (METADATA, b'{"ImageName":"test","New":{"a":1,"b":[2]}}')
    assert _diff(PLAIN, [*PLAIN[:2], metadata, *PLAIN[3:]]) == {"metadata", "metadata.New.a", "metadata.New.b"}
    # The same values, spelled otherwise: other bytes.
    assert _diff(PLAIN, [*PLAIN[:2], (METADATA, b'{ "ImageName":"test"}'), *PLAIN[3:]]) == {"metadata"}


def test_both_sides_of_a_difference() -> None:
    found = image.diff(image.read(forge()), image.read(forge(PLAIN[:4])))
    assert found["ramdisk 2"][1] is None
    assert found["PCR2"][0] == image.read(forge()).pcrs["PCR2"]
    assert str(len(BOOT)) not in str(found["ramdisk 2"])

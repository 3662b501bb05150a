from __future__ import annotations

from typing import Any

import pytest

from ephemeralml.codec import cbor
from ephemeralml.errors import TransportError
from ephemeralml.session.hostlink import Ask, KeyAsk, failure, success

ASK = KeyAsk("arn", b"wrapped", {"purpose": "model"}, b"document")


def test_key_ask_round_trip() -> None:
    value: Any = cbor.decode(ASK.to_bytes())
    assert value["ask"] == Ask.KEY
    assert KeyAsk.from_map(value) == ASK


@pytest.mark.parametrize(
    "change",
    [
        {"key_arn": b"arn"},
        {"wrapped_dek": "text"},
        {"document": None},
        {"encryption_context": []},
        {"encryption_context": {"a": 1}},
        {"encryption_context": {1: "a"}},
        {"more": 1},
    ],
)
def test_malformed_key_asks(change: dict[str, Any]) -> None:
    value: Any = cbor.decode(ASK.to_bytes())
    with pytest.raises(TransportError) as caught:
        KeyAsk.from_map(value | change)
    assert caught.value.code == "hostlink.malformed"


def test_answers() -> None:
    assert cbor.decode(success(manifest=b"m")) == {"ok": {"manifest": b"m"}}
    assert cbor.decode(failure("a.b", "why")) == {"error": {"code": "a.b", "message": "why"}}

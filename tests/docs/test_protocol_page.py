"""docs/protocol.md against the code: its tables, its limits and its test values."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from inspect import signature

import numpy as np
import pytest
from pages import ROOT, code, names, numbers, table, tables

from ephemeralml import Client
from ephemeralml.attestation import AWS_NITRO_ROOT_G1_SHA256, SessionBinding
from ephemeralml.attestation.binding import KeyReleaseBinding
from ephemeralml.client import channel, client
from ephemeralml.codec import cbor
from ephemeralml.enclave import requests
from ephemeralml.host import relay
from ephemeralml.inference import batcher
from ephemeralml.session import handshake, hostlink, hpke, keys, limits, records, transport
from ephemeralml.session.address import Address
from ephemeralml.session.frames import NOTICE_BYTES, FrameType, encode_frame
from ephemeralml.session.hostlink import Ask, KeyAsk
from ephemeralml.session.messages import EmbedRequest, EmbedResponse, Notice, Refusal, Request, Response

PAGE = "docs/protocol.md"
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")
EVIDENCE, USER_DATA, REQUEST, RESPONSE = tables(PAGE, "key", "value")


def keys_of(encoded: bytes) -> set[int | str]:
    value = cbor.decode(encoded, limit=1 << 20)
    assert isinstance(value, dict)
    return set(value)


def sizes(rows: list[tuple[str, ...]]) -> dict[str, int]:
    """The sizes that a table of fields gives: ``bstr(32)``."""
    return {code(row[0])[0]: int(found[1]) for row in rows if (found := re.match(r"bstr\((\d+)\)", row[1]))}


def map_after(name: str) -> set[str]:
    """The keys of the map that the page gives a message in a line: **NAME** `{"key": …}`."""
    (shown,) = re.findall(rf"^\*\*{name}\*\*(?: is)? `(\{{.*?\}})`", TEXT, re.MULTILINE)
    return set(re.findall(r'"(\w+)":', shown))


def test_the_addresses_are_those_that_are_read() -> None:
    shown = names(table(PAGE, "address", "to connect", "to listen"))
    assert f"{', '.join(shown[:-1])} or {shown[-1]}" == Address.FORMS
    for form in shown:
        Address.parse(form.replace("HOST", "host").replace("CID", "3").replace("PORT", "5000"))


def test_the_frames_are_those_of_the_code() -> None:
    rows = table(PAGE, "type", "name", "direction", "body")
    assert {(int(code(row[0])[0], 16), row[1]) for row in rows} == {(kind.value, kind.name) for kind in FrameType}


def test_the_caps_are_those_of_the_code() -> None:
    caps = {row[0]: numbers(row[1])[0] for row in table(PAGE, "frames", "cap")}
    assert caps == {
        "HELLO, EVIDENCE, OPEN": limits.HANDSHAKE_FRAME_BYTES,
        "ALERT, CLOSE": NOTICE_BYTES,
        "everything else the client reads after OPEN": limits.RECORD_FRAME_BYTES,
        "everything else the enclave reads after ACCEPT": limits.REQUEST_BYTES + records.TAG_BYTES,
    }
    assert f"at most {limits.WRITE_BYTES // 1024} KiB per socket write" in TEXT


def test_the_handshake_has_the_keys_and_sizes_of_the_page() -> None:
    key = hpke.HpkeKey()
    enclave = handshake.EnclaveHandshake(key=key, model=b"m" * 32, config=b"c" * 32, boot=b"b" * 16, manifest=b"")
    hello = handshake.ClientHandshake().hello()
    assert keys_of(hello[5:]) == map_after("HELLO")
    frame, _ = enclave.evidence(enclave.receive_hello(hello[5:]), attest=lambda data, nonce: data + nonce)
    assert keys_of(frame[5:]) == set(names(EVIDENCE))
    assert sizes(EVIDENCE) == {"hpke_public_key": len(key.public_bytes)}
    sealed = hpke.seal(b"s" * 32, key.public_bytes, info=b"")
    assert f"**OPEN** is {len(sealed):,} bytes: HPKE `enc` ({hpke.ENC_BYTES:,})" in TEXT
    assert map_after("ALERT") == map_after("CLOSE") == keys_of(Notice("", "").to_bytes())


def test_what_documents_bind_is_what_the_page_says() -> None:
    assert sizes(USER_DATA) == SessionBinding.SIZES
    assert {row[0]: row[1] for row in USER_DATA}["`purpose`"] == f'`"{SessionBinding.PURPOSE}"`'
    release = [f'"purpose": "{KeyReleaseBinding.PURPOSE}"']
    release += [f'"{name}": bstr({size})' for name, size in KeyReleaseBinding.SIZES.items()]
    assert f"CBOR `{{{', '.join(release)}}}`" in TEXT
    assert TEXT.count(AWS_NITRO_ROOT_G1_SHA256.hex()) == 1


def test_the_messages_have_the_keys_and_sizes_of_the_page() -> None:
    request = EmbedRequest(texts=("a",), nonce=b"n" * 32, salt=b"s" * 16, previous=b"p" * 32)
    response = EmbedResponse(vectors=np.zeros((1, 2), dtype=np.float32), tokens=3, salt=b"s" * 16)
    assert keys_of(request.to_bytes()) == set(names(REQUEST))
    assert keys_of(response.to_bytes()) == set(names(RESPONSE))
    assert sizes(REQUEST) == {name: len(getattr(request, name)) for name in ("nonce", "salt", "previous")}
    assert sizes(RESPONSE) == {"salt": len(response.salt)}
    assert map_after("REQUEST") == keys_of(Request(1, b"").to_bytes())
    assert map_after("RESPONSE") == keys_of(Response(1, b"", b"").to_bytes())
    assert map_after("REFUSAL") == keys_of(Refusal(1, "", "", None).to_bytes())
    assert f"A message is at most {records.MAX_PLAINTEXT:,} bytes" in TEXT


LIMITS: Mapping[str, tuple[float, ...]] = {
    "batcher: texts waiting, all sessions and one": (
        batcher.MAX_TEXTS,
        batcher.MAX_TEXTS // batcher.SESSION_SHARE,
    ),
    "batcher: characters waiting, all sessions and one": (
        batcher.MAX_CHARACTERS,
        batcher.MAX_CHARACTERS // batcher.SESSION_SHARE,
    ),
    "characters of one text": (batcher.MAX_TEXT_CHARACTERS,),
    "receipts a session remembers for `previous`": (requests._RECEIPTS_REMEMBERED,),
    "relay: connections, in all and per client address": (relay.MAX_CONNECTIONS, relay.MAX_CONNECTIONS_PER_ADDRESS),
    "enclave: seconds to answer what is in work when told to stop": (limits.DRAIN_SECONDS,),
    "client: seconds between two looks for an enclave that is away": (client._AWAY_SECONDS,),
    "relay: seconds to connect to the enclave": (transport._DIAL_SECONDS,),
    "relay: seconds a peer may take no bytes": (relay._STALLED_SECONDS,),
    "client: seconds for each wait on the network": (signature(Client).parameters["timeout"].default,),
    "client: unanswered requests before it ends the session": (channel._MAX_ABANDONED,),
}


def test_the_fixed_limits_are_those_of_the_code() -> None:
    assert {row[0]: tuple(numbers(row[1])) for row in table(PAGE, "what", "value")} == LIMITS


def test_the_host_link_asks_as_the_page_says() -> None:
    questions = [code(row[0])[0] for row in table(PAGE, "question", "`ok`")]
    named = {int(number): cell for cell in questions for number in re.findall(r'"ask": (\d)', cell)}
    assert set(named) == set(Ask)
    asked = KeyAsk(key_arn="", wrapped_dek=b"", encryption_context={}, document=b"").to_bytes()
    assert keys_of(asked) == set(re.findall(r'"(\w+)":', named[Ask.KEY]))
    assert f"CBOR map (length bytes, at most {hostlink.MESSAGE_BYTES:,})" in TEXT


def test_the_test_values_are_what_the_code_makes() -> None:
    made = keys.derive_keys(bytes(range(0x20)), transcript=bytes(range(0x20, 0x40)))
    for name, value in (
        ("client → enclave", made.client_to_enclave),
        ("enclave → client", made.enclave_to_client),
        ("confirmation", made.confirmation),
        ("session id", made.session_id),
    ):
        assert re.search(rf"^{name} +{value.hex()}$", TEXT, re.MULTILINE), name
    message = Notice("closed", "bye").to_bytes()
    frame = records.Sealer(made.client_to_enclave, made.session_id).seal(FrameType.CLOSE, message)
    assert f"`{message.hex()}`, the frame {len(frame):,} bytes: it begins `{frame[:5].hex()}`" in TEXT
    assert f"`{frame[-16:].hex()}`" in TEXT
    assert f"`{hashlib.sha256(frame).hexdigest()}`" in TEXT
    hello = encode_frame(FrameType.HELLO, cbor.encode({"version": handshake.VERSION, "nonce": bytes(range(32))}))
    assert f"\n{hello.hex()}\n" in TEXT


@pytest.mark.parametrize("label", [b"ephemeralml session v1 open", b"ephemeralml session v1 keys"])
def test_the_labels_are_those_of_the_code(label: bytes) -> None:
    assert TEXT.count(f'"{label.decode()}"') == 1
    assert label in {handshake._INFO_LABEL, keys._LABEL}

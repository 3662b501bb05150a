"""The S3 source before servers and networks that go wrong: byte-exact in the end, or a typed error; never a hang."""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from botocore.exceptions import ClientError
from faulty_s3 import (
    ETAG,
    Ask,
    Behaviour,
    FaultyS3,
    drops_after,
    hangs_up,
    refuses,
    resets_after,
    says,
    stops_after,
    trickles,
)
from s3_package import BUCKET, URL, WEIGHTS, Packed

from ephemeralml.errors import PackageError
from ephemeralml.host.s3 import client as client_module
from ephemeralml.host.s3 import reader as reader_module
from ephemeralml.host.s3.source import S3Source
from ephemeralml.package.source import MAX_CIPHERTEXT_SIZE

PART = 1_000_000


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "PART_BYTES", PART)
    monkeypatch.setattr(reader_module, "_PIECE_BYTES", 50_000)
    monkeypatch.setattr(reader_module, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(client_module, "READ_SECONDS", 0.4)
    monkeypatch.setattr(client_module, "ATTEMPTS", 2)


@pytest.fixture
def faulty(package: Packed) -> Iterator[FaultyS3]:
    with FaultyS3() as server:
        server.objects[f"{BUCKET}/minilm/manifest.cose"] = package.signed
        server.objects[f"{BUCKET}/{package.key()}"] = package.sealed
        yield server


Script = Callable[..., None]


@pytest.fixture
def script(faulty: FaultyS3, package: Packed) -> Script:
    """What the server does with the requests for the weights, one after the other."""

    def set_script(*behaviours: Behaviour) -> None:
        faulty.scripts[f"{BUCKET}/{package.key()}"] = deque(behaviours)

    return set_script


def read(faulty: FaultyS3, **part: int) -> bytes:
    source = S3Source(URL, endpoint_url=faulty.url)
    with source.open(WEIGHTS, **part) as reader:
        return b"".join(iter(lambda: reader(1 << 20), b""))


def refusal(faulty: FaultyS3, **part: int) -> str:
    with pytest.raises(PackageError) as caught:
        read(faulty, **part)
    assert BUCKET in str(caught.value)
    return caught.value.code


def weights_asked(faulty: FaultyS3) -> list[tuple[int, str | None]]:
    return [(start, match) for key, start, match in faulty.asked if key.endswith(".enc")]


@pytest.mark.parametrize("broken", [drops_after, resets_after])
def test_a_dropped_connection_is_resumed_where_it_broke_off(
    faulty: FaultyS3, script: Script, package: Packed, broken: Callable[[int], Behaviour]
) -> None:
    script(broken(123_456))
    assert read(faulty) == package.sealed
    first, *others = sorted(weights_asked(faulty), key=lambda item: item[0])
    assert first == (0, None)
    resumed = [item for item in others if 0 < item[0] < PART]
    # Not from the start; what was lost with the connection is at most a piece.
    assert len(resumed) == 1
    assert 0 < resumed[0][0] <= 123_456
    assert all(match == ETAG for _, match in others)


def test_every_part_may_break_off_several_times(faulty: FaultyS3, script: Script, package: Packed) -> None:
    script(*(drops_after(100_000 + 7 * index) for index in range(8)), drops_after(0), hangs_up)
    assert read(faulty, start=77, size=2_500_000) == package.sealed[77 : 77 + 2_500_000]


def test_a_connection_that_breaks_off_again_and_again_is_given_up(faulty: FaultyS3, script: Script) -> None:
    script(*(drops_after(50_000) for _ in range(1000)))
    assert refusal(faulty, size=PART) == "s3.unreachable"
    assert [start for start, _ in weights_asked(faulty)] == [0, 50_000, 100_000, 150_000, 200_000]


def test_a_server_that_stops_in_the_middle_is_resumed(faulty: FaultyS3, script: Script, package: Packed) -> None:
    script(stops_after(300_000, faulty))
    assert read(faulty) == package.sealed


def test_another_server_after_a_crash_in_the_middle(faulty: FaultyS3, script: Script) -> None:
    script(drops_after(50_000), *(hangs_up for _ in range(20)))
    assert refusal(faulty, size=PART) == "s3.unreachable"


def shorter(ask: Ask) -> None:
    ask.answer(ask.asked[:-1])


def longer(ask: Ask) -> None:
    ask.answer(ask.asked + b"x")


def whole(ask: Ask) -> None:
    ask.answer(ask.data, status=200, content_range="")


def not_as_a_part(ask: Ask) -> None:
    ask.answer(ask.asked, status=200)


def whole_as_a_part(ask: Ask) -> None:
    ask.answer(ask.data)


def shifted(ask: Ask) -> None:
    ask.answer(ask.asked, content_range=f"bytes {ask.start + 1}-{ask.stop}/{len(ask.data)}")


def of_unknown_size(ask: Ask) -> None:
    ask.answer(ask.asked, content_range=f"bytes {ask.start}-{ask.stop - 1}/*")


def without_etag(ask: Ask) -> None:
    ask.answer(ask.asked, etag="")


def backwards(ask: Ask) -> None:
    ask.answer(ask.asked, content_range=f"bytes {ask.stop}-{ask.start}/{len(ask.data)}")


@pytest.mark.parametrize(
    "behaviour",
    [
        *(shorter, longer, whole, not_as_a_part, whole_as_a_part, shifted, of_unknown_size, without_etag, backwards),
        says(206, b""),
        says(200, b"<html>"),
    ],
)
def test_answers_that_are_not_the_range_asked_for(faulty: FaultyS3, script: Script, behaviour: Behaviour) -> None:
    script(*[behaviour] * 10)
    assert refusal(faulty, start=1000, size=10_000) == "s3.answer"


def test_bytes_beyond_the_answer_are_nobodys(faulty: FaultyS3, script: Script, package: Packed) -> None:
    script(lambda ask: ask.answer(ask.asked + b"surplus", length=len(ask.asked)))
    assert read(faulty) == package.sealed


def test_an_object_that_changes_is_an_error_that_says_so(faulty: FaultyS3, script: Script) -> None:
    # S3 keeps If-Match, and whoever does not is caught by the ETag of the answer.
    for behaviour in (refuses("PreconditionFailed", 412), lambda ask: ask.answer(ask.asked, etag='"other"')):
        script(drops_after(100_000), behaviour)
        assert refusal(faulty, size=PART) == "s3.changed"


def test_an_object_that_grows_under_the_same_etag(faulty: FaultyS3, script: Script) -> None:
    def grown(ask: Ask) -> None:
        ask.answer(ask.asked, content_range=f"bytes {ask.start}-{ask.stop - 1}/{len(ask.data) + 1}")

    script(drops_after(100_000), grown)
    assert refusal(faulty, size=PART) == "s3.changed"


def test_an_object_above_the_cap_is_refused_before_its_body(faulty: FaultyS3, script: Script) -> None:
    def huge(ask: Ask) -> None:
        content_range = f"bytes {ask.start}-{ask.start + PART - 1}/{MAX_CIPHERTEXT_SIZE + 1}"
        ask.answer(b"", content_range=content_range, length=PART)
        ask.hang_up()

    script(huge)
    assert refusal(faulty) == "artifact.too_large"


@pytest.mark.parametrize("kind", ["SlowDown", "ServiceUnavailable", "InternalError"])
def test_a_throttled_request_is_repeated(faulty: FaultyS3, script: Script, package: Packed, kind: str) -> None:
    script(refuses(kind, 503))
    assert read(faulty) == package.sealed
    script(*[refuses(kind, 503)] * 20)
    assert refusal(faulty) == "s3.unreachable"


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("AccessDenied", 403, "s3.access_denied"),
        ("NoSuchKey", 404, "s3.missing"),
        ("NoSuchBucket", 404, "s3.no_bucket"),
        ("InvalidRange", 416, "s3.truncated"),
        ("SignatureDoesNotMatch", 403, "s3.credentials"),
        ("InvalidAccessKeyId", 403, "s3.credentials"),
        ("ExpiredToken", 400, "s3.credentials"),
        ("RequestTimeTooSkewed", 403, "s3.credentials"),
        ("SomethingNew", 400, "s3.refused"),
    ],
)
def test_refusals_of_s3(faulty: FaultyS3, script: Script, kind: str, status: int, code: str) -> None:
    script(*[refuses(kind, status)] * 10)
    assert refusal(faulty) == code
    # A refusal is not asked for again.
    assert len(weights_asked(faulty)) == 1


def test_what_s3_says_commands_no_terminal_and_begins_no_line() -> None:
    evil = "AccessDenied\x1b[2J\nhost: ready"
    with pytest.raises(PackageError) as caught, client_module.explained(URL):
        raise ClientError({"Error": {"Code": evil, "Message": evil}}, "GetObject")
    assert str(caught.value).isprintable()
    assert "ready" not in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff\xfe\x00", b"<Error><Code>" * 10])
@pytest.mark.parametrize(
    ("status", "code"), [(400, "refused"), (403, "access_denied"), (404, "missing"), (412, "changed")]
)
def test_refusals_without_a_word_of_s3(faulty: FaultyS3, script: Script, status: int, code: str, body: bytes) -> None:
    script(says(status, body))
    assert refusal(faulty) == f"s3.{code}"


def test_a_server_that_never_answers(faulty: FaultyS3, script: Script) -> None:
    script(*[lambda ask: faulty.over.wait(60)] * 10)
    assert refusal(faulty) == "s3.unreachable"


def test_bytes_that_trickle_are_given_up(faulty: FaultyS3, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "_STALL_SECONDS", 1.0)
    script(*[trickles(faulty)] * 10)
    assert refusal(faulty) == "s3.unreachable"


def test_a_manifest_that_comes_in_part(faulty: FaultyS3) -> None:
    faulty.scripts[f"{BUCKET}/minilm/manifest.cose"] = deque([drops_after(10)])
    assert refusal(faulty) == "s3.unreachable"


def test_nobody_listens(package: Packed) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    with pytest.raises(PackageError) as caught:
        S3Source(URL, endpoint_url=f"http://127.0.0.1:{port}").manifest()
    assert caught.value.code == "s3.unreachable"
    assert package.key() not in str(caught.value)


def test_no_secret_in_an_error(faulty: FaultyS3, script: Script, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    script(refuses("SignatureDoesNotMatch", 403))
    with pytest.raises(PackageError) as caught:
        read(faulty)
    for secret in ("host-secret", "AKIDHOST"):
        assert secret not in str(caught.value) + caplog.text

from __future__ import annotations

import hashlib
import io
import tracemalloc

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ephemeralml.errors import PackageError
from ephemeralml.package import Artifact, decrypt_artifact, stream
from ephemeralml.package.open import wipe
from ephemeralml.package.stream import HEADER_SIZE, TAG_SIZE, ArtifactCipher

CHUNK = stream.MIN_CHUNK_SIZE
DEK = bytes(range(32))
ID = bytes(range(16))
EDGES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1, 3 * CHUNK]
SIZES = st.sampled_from(EDGES) | st.integers(0, 4 * CHUNK)


def content(size: int) -> bytes:
    return hashlib.shake_128(b"content").digest(size)


def seal(plaintext: bytes, *, name: str = "a/b.json", salt: bytes = bytes(32), package_id: bytes = ID) -> bytes:
    cipher = ArtifactCipher(DEK, package_id=package_id, name=name, salt=salt, size=len(plaintext), chunk_size=CHUNK)
    out = [cipher.header]
    for index in range(cipher.chunks):
        chunk = plaintext[index * CHUNK :][: cipher.plaintext_length(index)]
        box = bytearray(len(chunk) + TAG_SIZE)
        cipher.seal_into(index, chunk, box)
        out.append(bytes(box))
    return b"".join(out)


def describe(plaintext: bytes, *, name: str = "a/b.json", salt: bytes = bytes(32)) -> Artifact:
    return Artifact(
        name=name,
        size=len(plaintext),
        ciphertext_size=stream.ciphertext_size(len(plaintext), CHUNK),
        sha256=hashlib.sha256(plaintext).digest(),
        salt=salt,
        chunk_size=CHUNK,
    )


def open_sealed(sealed: bytes, artifact: Artifact, *, dek: bytes = DEK, package_id: bytes = ID) -> bytes:
    return bytes(decrypt_artifact(artifact, package_id=package_id, dek=dek, read=io.BytesIO(sealed).read))


def refused(sealed: bytes, artifact: Artifact, *, dek: bytes = DEK, package_id: bytes = ID) -> str:
    with pytest.raises(PackageError) as caught:
        open_sealed(sealed, artifact, dek=dek, package_id=package_id)
    return caught.value.code


def boxes(sealed: bytes) -> list[bytes]:
    body = sealed[HEADER_SIZE:]
    return [body[start : start + CHUNK + TAG_SIZE] for start in range(0, len(body), CHUNK + TAG_SIZE)]


@given(SIZES)
def test_round_trip(size: int) -> None:
    plaintext = content(size)
    sealed = seal(plaintext)
    assert len(sealed) == stream.ciphertext_size(size, CHUNK)
    assert open_sealed(sealed, describe(plaintext)) == plaintext


def test_the_format_written_apart_from_the_code() -> None:
    plaintext, salt = content(CHUNK + 5), bytes(range(100, 132))
    header = b"EMLART\x00\x01" + ID + salt + CHUNK.to_bytes(4)
    info = b"\x83\x77ephemeralml artifact v1\x68a/b.json\x50" + ID
    aead = ChaCha20Poly1305(HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(DEK))
    expected = header
    expected += aead.encrypt(bytes(12), plaintext[:CHUNK], header)
    expected += aead.encrypt(bytes(10) + b"\x01\x01", plaintext[CHUNK:], header)
    assert seal(plaintext, salt=salt) == expected


@pytest.mark.parametrize(("size", "chunks"), [(0, 1), (1, 1), (CHUNK, 1), (CHUNK + 1, 2), (2 * CHUNK, 2)])
def test_only_an_empty_artifact_has_an_empty_chunk(size: int, chunks: int) -> None:
    assert stream.chunk_count(size, CHUNK) == chunks
    assert all(len(box) > TAG_SIZE for box in boxes(seal(content(size)))) == (size > 0)


def test_a_plaintext_has_one_layout() -> None:
    # The same plaintext, ended by an empty final chunk under the right key: still refused.
    plaintext = content(CHUNK)
    longer = ArtifactCipher(DEK, package_id=ID, name="a/b.json", salt=bytes(32), size=CHUNK + 1, chunk_size=CHUNK)
    first, empty = bytearray(CHUNK + TAG_SIZE), bytearray(TAG_SIZE)
    longer.seal_into(0, plaintext, first)
    longer.seal_into(1, b"", empty)
    assert refused(longer.header + first + empty, describe(plaintext)) == "artifact.authentication"


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1])
def test_every_truncation(size: int) -> None:
    plaintext = content(size)
    sealed, artifact = seal(plaintext), describe(plaintext)
    for cut in range(len(sealed)):
        code = refused(sealed[:cut], artifact)
        assert code == "artifact.truncated", cut


@given(SIZES, st.binary(min_size=1, max_size=40))
def test_extension(size: int, tail: bytes) -> None:
    plaintext = content(size)
    sealed = seal(plaintext)
    assert refused(sealed + tail, describe(plaintext)) == "artifact.extended"
    assert refused(sealed + boxes(sealed)[-1], describe(plaintext)) == "artifact.extended"


@settings(max_examples=300)
@given(SIZES, st.data())
@example(0, None)
def test_a_flipped_bit_anywhere(size: int, data: st.DataObject | None) -> None:
    plaintext = content(size)
    sealed, artifact = seal(plaintext), describe(plaintext)
    positions = range(len(sealed)) if data is None else [data.draw(st.integers(0, len(sealed) - 1))]
    for position in positions:
        broken = bytearray(sealed)
        broken[position] ^= 1 << (data.draw(st.integers(0, 7)) if data else 0)
        expected = "artifact.header" if position < HEADER_SIZE else "artifact.authentication"
        assert refused(bytes(broken), artifact) == expected


@given(st.permutations(range(4)))
def test_every_reorder(order: list[int]) -> None:
    plaintext = content(4 * CHUNK)  # four boxes of one length
    sealed, artifact = seal(plaintext), describe(plaintext)
    parts = boxes(sealed)
    shuffled = sealed[:HEADER_SIZE] + b"".join(parts[index] for index in order)
    if order == [0, 1, 2, 3]:
        assert open_sealed(shuffled, artifact) == plaintext
    else:
        assert refused(shuffled, artifact) == "artifact.authentication"


def test_dropped_and_repeated_chunks() -> None:
    plaintext = content(3 * CHUNK)
    sealed, artifact = seal(plaintext), describe(plaintext)
    header, (first, second, third) = sealed[:HEADER_SIZE], boxes(sealed)
    assert refused(header + first + third, artifact) == "artifact.authentication"
    assert refused(header + first + second, artifact) == "artifact.truncated"
    assert refused(header + first + first + third, artifact) == "artifact.authentication"
    assert refused(header + first + second + third + third, artifact) == "artifact.extended"
    # A prefix does not pass for an artifact of that size: its last chunk is not marked final.
    assert refused(header + first + second, describe(plaintext[: 2 * CHUNK])) == "artifact.authentication"


@given(SIZES)
def test_swaps_between_packages_artifacts_and_keys(size: int) -> None:
    plaintext = content(size)
    sealed, artifact = seal(plaintext), describe(plaintext)
    assert refused(sealed, artifact, package_id=bytes(16)) == "artifact.header"
    assert refused(sealed, describe(plaintext, salt=b"s" * 32)) == "artifact.header"
    assert refused(sealed, describe(plaintext, name="other")) == "artifact.authentication"
    assert refused(sealed, artifact, dek=bytes(32)) == "artifact.authentication"
    # The header alone corrected: the chunks are still bound to the package they were sealed for.
    other = seal(plaintext, package_id=bytes(16))
    assert refused(sealed[:HEADER_SIZE] + other[HEADER_SIZE:], artifact) == "artifact.authentication"


def test_content_the_owner_did_not_sign() -> None:
    plaintext = content(CHUNK + 1)
    assert refused(seal(bytes(CHUNK + 1)), describe(plaintext)) == "artifact.digest"


@pytest.mark.parametrize("dek", [b"", bytes(31), bytes(33)])
def test_dek_size(dek: bytes) -> None:
    assert refused(seal(b""), describe(b""), dek=dek) == "package.dek"


@given(st.lists(st.integers(1, 2 * CHUNK), min_size=1, max_size=10))
def test_pieces_as_a_socket_gives_them(lengths: list[int]) -> None:
    plaintext = content(3 * CHUNK + 7)
    raw = io.BytesIO(seal(plaintext))
    turn = 0

    def read(size: int) -> memoryview:
        nonlocal turn
        turn += 1
        return memoryview(raw.read(min(size, lengths[turn % len(lengths)])))

    assert bytes(decrypt_artifact(describe(plaintext), package_id=ID, dek=DEK, read=read)) == plaintext


def test_a_reader_that_gives_too_much() -> None:
    sealed = seal(content(10))
    with pytest.raises(PackageError) as caught:
        decrypt_artifact(describe(content(10)), package_id=ID, dek=DEK, read=lambda size: bytes(size + len(sealed)))
    assert caught.value.code == "artifact.extended"


def test_no_more_is_asked_for_than_the_artifact_and_its_end() -> None:
    sealed, asked = seal(content(CHUNK + 1)), 0
    raw = io.BytesIO(sealed)

    def read(size: int) -> bytes:
        nonlocal asked
        asked += size
        return raw.read(size)

    decrypt_artifact(describe(content(CHUNK + 1)), package_id=ID, dek=DEK, read=read)
    assert asked == len(sealed) + 1


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError, PackageError])
def test_the_plaintext_is_wiped_on_failure(failure: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    plaintext = content(3 * CHUNK)
    raw = io.BytesIO(seal(plaintext))
    wiped: list[bytearray] = []

    def watch(buffers: dict[str, bytearray]) -> None:
        (buffer,) = buffers.values()
        assert buffer[:CHUNK] == plaintext[:CHUNK]
        wipe(buffers)
        wiped.append(buffer)

    def read(size: int) -> bytes:
        if raw.tell() > HEADER_SIZE + 2 * CHUNK:
            raise failure("x", code="x") if failure is PackageError else failure
        return raw.read(size)

    monkeypatch.setitem(decrypt_artifact.__globals__, "wipe", watch)
    with pytest.raises(failure):
        decrypt_artifact(describe(plaintext), package_id=ID, dek=DEK, read=read)
    assert wiped == [bytearray(3 * CHUNK)]


@given(st.integers(0, 5 << 20))
@settings(max_examples=20)
def test_wipe(size: int) -> None:
    buffer = bytearray(b"\xff") * size
    wipe({"a": buffer})
    assert buffer == bytes(size)


def test_nothing_is_allocated_for_a_wrong_header() -> None:
    artifact = Artifact(
        name="huge",
        size=4 << 30,
        ciphertext_size=stream.ciphertext_size(4 << 30, CHUNK),
        sha256=bytes(32),
        salt=bytes(32),
        chunk_size=CHUNK,
    )
    tracemalloc.start()
    try:
        assert refused(bytes(HEADER_SIZE), artifact) == "artifact.header"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_an_opened_chunk_is_bound_to_its_place() -> None:
    cipher = ArtifactCipher(DEK, package_id=ID, name="n", salt=bytes(32), size=2 * CHUNK, chunk_size=CHUNK)
    box = bytearray(CHUNK + TAG_SIZE)
    cipher.seal_into(0, bytes(CHUNK), box)
    with pytest.raises(InvalidTag):
        cipher.open_into(1, box, bytearray(CHUNK))

"""What the page says the host sees is what goes over the wire."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ephemeralml.session.messages import EmbedRequest, EmbedResponse, Request, Response
from ephemeralml.session.records import padded_size

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
RECEIPT = bytes(873)  # as long as one of `make demo`


def number(digits: str) -> int:
    return int(digits.replace(",", ""))


def answer_size(texts: int) -> int:
    body = EmbedResponse(np.zeros((texts, 384), np.float32), 9 * texts, bytes(16)).to_bytes()
    return padded_size(len(Response(1, body, RECEIPT).to_bytes()))


def request_size(length: int) -> int:
    body = EmbedRequest(texts=("x" * length,), nonce=bytes(32), salt=bytes(16), previous=bytes(32)).to_bytes()
    return padded_size(len(Request(1, body).to_bytes()))


ROWS = re.findall(r"^\| (\d+) to (\d+) \| ([\d,]+) \|$", PAGE, re.MULTILINE)
LENGTHS = re.findall(r"up to ([\d,]+) bytes (?:of ASCII is )?([\d,]+)", PAGE)


@pytest.mark.parametrize(("first", "last", "size"), ROWS)
def test_an_answer_is_as_large_as_the_page_says(first: str, last: str, size: str) -> None:
    assert answer_size(int(first)) == answer_size(int(last)) == number(size)
    assert answer_size(int(last) + 1) > number(size)


@pytest.mark.parametrize(("length", "size"), LENGTHS)
def test_a_request_is_as_large_as_the_page_says(length: str, size: str) -> None:
    assert request_size(number(length)) == number(size)
    assert request_size(number(length) + 1) > number(size)


def test_the_page_says_so() -> None:
    assert len(ROWS) == 6
    assert len(LENGTHS) == 2

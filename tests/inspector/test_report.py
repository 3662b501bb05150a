"""The report: what Python found, as a page that does nothing."""

from __future__ import annotations

import dataclasses
import html
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest
from browser import Inspector
from bundles import World

from ephemeralml.attestation import Policy
from ephemeralml.errors import EphemeralMLError
from ephemeralml.inspector import judge_file, render_report
from ephemeralml.inspector.page import read_words
from ephemeralml.receipts import Bundle, BundleVerdict, verify_bundle


def judged(bundle: bytes, policy: Policy) -> BundleVerdict | EphemeralMLError:
    try:
        return verify_bundle(bundle, policy=policy)
    except EphemeralMLError as error:
        return error


def report(data: bytes, policy: Policy, name: str = "answer.aer") -> str:
    with NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return render_report(judge_file(Path(file.name), policy=policy), policy=policy, name=name)


def test_an_accepted_bundle_shows_every_step_and_what_is_not_proved(world: World) -> None:
    page = report(world.bundle(), world.policy)
    verdict = judged(world.bundle(), world.policy)
    assert isinstance(verdict, BundleVerdict)
    assert "Verified, not confidential" in page
    assert "a development root signed it, not AWS" in page
    assert page.count('<li class="passed">') == len(verdict.steps) == len(read_words()["steps"])
    for step in verdict.steps:
        assert html.escape(step.detail) in page
    assert world.claims.request_hash.hex() in page
    assert read_words()["limits"]["request"] in page
    assert read_words()["limits"]["owner"] not in page


def test_the_words_name_every_step(world: World) -> None:
    verdict = judged(world.bundle(), world.policy)
    assert isinstance(verdict, BundleVerdict)
    assert list(read_words()["steps"]) == [step.name for step in verdict.steps]


def test_an_insecure_policy_shows(world: World) -> None:
    page = report(world.bundle(), Policy.insecure_any_measurement(extra_roots=world.policy.extra_roots))
    assert "unchecked" in page
    assert read_words()["limits"]["measurements"] in page
    assert read_words()["limits"]["owner"] in page


@pytest.mark.parametrize(
    ("part", "code", "reached"),
    [
        ({"document": b"x"}, "parse.cose", 2),
        ({"manifest": b"x"}, "manifest.malformed", 7),
        ({"receipt": b"x"}, "COSE_DECODE_FAILED", 10),
    ],
)
def test_a_refused_bundle_shows_the_step_and_the_code(
    world: World, part: dict[str, bytes], code: str, reached: int
) -> None:
    damaged = dataclasses.replace(Bundle.from_bytes(world.bundle()), **part).to_bytes()
    page = report(damaged, world.policy)
    assert f"<code>{code}</code>" in page
    assert page.count('<li class="passed">') == reached - 1
    assert page.count('<li class="failed">') == 1
    assert page.count('<li class="skipped">') == 13 - reached
    assert "What the receipt says" not in page


def test_everything_from_a_file_is_escaped(world: World) -> None:
    attack = "<script>alert(1)</script>\"'&"
    page = report(world.bundle(iss=attack), world.policy, name=f"{attack}.aer")
    assert "<script" not in page
    assert page.count(html.escape(attack)) == 2


def test_a_browser_shows_it_without_a_word_or_a_request(browser: Inspector, world: World, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(report(world.bundle(), world.policy), encoding="utf-8")
    browser.open(path)
    assert browser.driver.find_element("css selector", ".verdict h2").text == "Verified, not confidential"
    # The style sheet is the one that the content policy names.
    assert browser.driver.find_element("css selector", "ol.steps li").value_of_css_property("display") == "grid"
    assert browser.console() == []
    assert [url for url in browser.requests() if not url.startswith("data:")] == [path.as_uri()]


def test_page_and_report_say_the_same_of_a_bundle(inspector: Inspector, world: World) -> None:
    policy = world.policy.to_json().encode()
    (shown,) = inspector.judge([(world.bundle(), policy)])
    page = report(world.bundle(), world.policy)
    # Below the verdict, whose sentence is the verifier's own.
    for line in shown.text.split("Step by step", 1)[1].splitlines():
        assert html.escape(line.strip()) in page, line

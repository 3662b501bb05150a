"""Files of several bundles: page and Python judge each, and the file by its worst."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from browser import Inspector, python_outcome
from bundles import World, make_world
from typer.testing import CliRunner

from ephemeralml.cli.commands import make_app
from ephemeralml.inspector import judge_file, render_report
from ephemeralml.inspector.findings import Finding, Findings
from ephemeralml.inspector.report import MAX_LINES


@pytest.fixture
def files(world: World) -> dict[str, bytes]:
    """Content of files by name."""
    good, late, nonceless = world.bundle(), world.bundle(sequence_number=6), world.bundle(eat_nonce=None)
    return {
        "three good ones": good + late + good,
        "one refused in the middle": good + nonceless + late,
        "two refused": nonceless + good + world.bundle(iat=1),
        "cut off": good + late[:-1],
        "no bundle in the middle": good + b"\xa1\x01\x02" + good,
        "garbage behind": good + b"\xff" * 5000,
        "a head that announces too much": good + b"\x5b" + b"\xff" * 8 + good,
        "an endless array": good + b"\x9b" + b"\xff" * 8 + good,
        "many": (good + late) * 120,
    }


def test_page_and_python_agree_on_files_of_several(inspector: Inspector, world: World, files: dict[str, bytes]) -> None:
    policy = world.policy.to_json().encode()
    shown = inspector.judge([(content, policy) for content in files.values()])
    for (name, content), outcome in zip(files.items(), shown, strict=True):
        expected = python_outcome(content, policy)
        assert (outcome.verdict, outcome.code) == (expected.verdict, expected.code), name
        if expected.code:
            assert outcome.steps == expected.steps, name


def rows(inspector: Inspector) -> list[str]:
    return [row.text for row in inspector.driver.find_elements("css selector", "ol.bundles summary")]


def test_each_bundle_has_its_line_and_what_follows_no_bundle_has_none(
    inspector: Inspector, world: World, files: dict[str, bytes]
) -> None:
    policy = world.policy.to_json().encode()
    inspector.judge([(files["two refused"], policy)])
    first, second, third = rows(inspector)
    assert "Bundle 1: ✗ refused" in first
    assert "NONCE_MISSING" in first
    assert "Bundle 2: verified, not confidential" in second
    assert "receipt 5, issued" in second
    assert "TIMESTAMP_BEFORE_EVIDENCE" in third
    (shown,) = inspector.judge([(files["no bundle in the middle"], policy)])
    assert len(rows(inspector)) == 2
    assert "1 of 2 bundles refused" in shown.text


def test_a_line_is_opened_by_keyboard_and_shows_the_steps(
    inspector: Inspector, world: World, files: dict[str, bytes]
) -> None:
    from selenium.webdriver import Keys  # noqa: PLC0415
    from selenium.webdriver.support.ui import WebDriverWait  # noqa: PLC0415

    inspector.judge([(files["three good ones"], world.policy.to_json().encode())])
    second = inspector.driver.find_elements("css selector", "ol.bundles summary")[1]
    second.send_keys(Keys.ENTER)
    WebDriverWait(inspector.driver, 30).until(
        lambda driver: len(driver.find_elements("css selector", "ol.bundles .steps li.passed")) == 13
    )
    details: Any = inspector.driver.find_element("css selector", "ol.bundles li:nth-child(2) dl")
    assert "sequence_number\n6" in details.text


def test_a_line_fits_a_phone(inspector: Inspector, world: World, files: dict[str, bytes]) -> None:
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    inspector.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        inspector.judge([(files["one refused in the middle"], world.policy.to_json().encode())])
        script = (
            "return [document.documentElement.scrollWidth, Math.min(...[...document.querySelectorAll(arguments[0])]"
        )
        script += ".map((row) => row.getBoundingClientRect().height))]"
        width, height = inspector.driver.execute_script(script, "ol.bundles summary")
        assert width <= 390
        # WCAG 2.2, success criterion 2.5.8 asks for 24.
        assert height >= 44
    finally:
        inspector.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_file_beyond_the_caps_gets_no_verdict(inspector: Inspector, world: World) -> None:
    # What stands for verifying: the cap is for files that would take minutes.
    inspector.driver.execute_script(
        "globalThis.Object.defineProperty(File.prototype, 'size', { get: () => 2 ** 28 + 1, configurable: true })"
    )
    (shown,) = inspector.judge([(world.bundle(), world.policy.to_json().encode())])
    assert (shown.verdict, shown.code, shown.steps) == ("no-verdict", "", ())
    assert "above 256 MiB" in shown.text


def test_a_newer_choice_ends_a_long_run(inspector: Inspector, world: World, files: dict[str, bytes]) -> None:
    shown = inspector.driver.execute_async_script(
        """
        const [many, one, done] = arguments;
        const drop = (numbers) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(numbers)], "x.aer"));
          dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, cancelable: true }));
        };
        const result = document.getElementById("result");
        const progress = document.getElementById("progress");
        const seen = [];
        // Not by a timer: what is short would be missed by chance, and then waited for.
        new MutationObserver((_, observer) => {
          if (!progress.hidden && !seen.length) {
            seen.push(progress.textContent.trim().split(" ").slice(1).join(" "));
            drop(one);
          } else if (result.getAttribute("aria-busy") === "false") {
            observer.disconnect();
            done([...seen, progress.hidden, result.dataset.code]);
          }
        }).observe(document.getElementById("result"), { attributes: true, subtree: true });
        drop(many);
        """,
        list(files["many"]),
        [255],
    )
    assert shown == ["bundles verified", True, "BUNDLE_MALFORMED"]


# Python's side.


def judged(content: bytes, world: World, folder: Path) -> Findings:
    path = folder / "many.aer"
    path.write_bytes(content)
    return judge_file(path, policy=world.policy)


def verify(world: World, folder: Path, content: bytes, *options: str) -> tuple[int, str]:
    path, policy = folder / "many.aer", folder / "policy.json"
    path.write_bytes(content)
    world.policy.save(policy)
    arguments = ["verify", str(path), "--policy", str(policy), *options]
    result = CliRunner().invoke(make_app(arguments), arguments)
    return result.exit_code, result.output


def test_the_command_names_every_refused_bundle(world: World, files: dict[str, bytes], tmp_path: Path) -> None:
    status, output = verify(world, tmp_path, files["two refused"])
    assert status == 1
    assert output.splitlines()[-1] == "2 of 3 bundles refused, the first is number 1"
    status, output = verify(world, tmp_path, files["two refused"], "--json")
    assert status == 1
    assert json.loads(output)["refused"] == [
        {"bundle": 1, "code": "NONCE_MISSING"},
        {"bundle": 3, "code": "TIMESTAMP_BEFORE_EVIDENCE"},
    ]
    assert verify(world, tmp_path, files["three good ones"])[0] == 0


def test_the_report_lists_each_bundle(world: World, files: dict[str, bytes], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert verify(world, tmp_path, files["one refused in the middle"], "--html", str(page))[0] == 1
    text = page.read_text(encoding="utf-8")
    assert text.count('<li class="not-confidential">') == 2
    assert text.count('<li class="refused">') == 1
    assert "What follows is of bundle 2." in text
    assert "1 of 3 bundles refused, the first is number 2" in text


def test_a_report_lists_no_more_lines_than_it_may(world: World, tmp_path: Path) -> None:
    findings = judged(world.bundle(), world, tmp_path)
    findings.bundles = [Finding("verified", None, "receipt 1")] * (MAX_LINES + 3)
    page = render_report(findings, policy=world.policy, name="many.aer")
    assert page.count('<li class="verified">') == MAX_LINES
    assert "And 3 more." in page


def test_a_file_is_as_confidential_as_its_worst_bundle(tmp_path: Path, world: World) -> None:
    """The attack: a bundle of an own root first, a genuine one last."""
    findings = judged(world.bundle() * 2, world, tmp_path)
    findings.bundles[1] = Finding("verified", None, "receipt 6")
    assert findings.kind == "not-confidential"
    findings.bundles[0] = Finding("verified", None, "receipt 5")
    assert findings.kind == "verified"


def test_bundles_of_another_root_are_refused_one_by_one(tmp_path: Path, world: World) -> None:
    other = make_world()
    findings = judged(world.bundle() + other.bundle() + world.bundle(), world, tmp_path)
    assert [found.code for found in findings.bundles] == [None, "chain.untrusted_root", None]
    assert findings.refused == [2]

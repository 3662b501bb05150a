"""The page as a thing to use: what it may do, by mouse, keyboard and phone, and when the browser falls short."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
from browser import Inspector
from bundles import World

from ephemeralml.inspector import build_page
from ephemeralml.inspector.page import assemble

PHONE = (390, 844)


@pytest.fixture
def files(world: World, tmp_path: Path) -> tuple[Path, Path]:
    """A bundle and its policy."""
    bundle, policy = tmp_path / "answer.aer", tmp_path / "policy.json"
    bundle.write_bytes(world.bundle())
    world.policy.save(policy)
    return bundle, policy


def wait(inspector: Inspector, verdict: str) -> Any:
    """The result, once it says so."""
    from selenium.webdriver.support.ui import WebDriverWait  # noqa: PLC0415

    result = inspector.driver.find_element("id", "result")
    WebDriverWait(inspector.driver, 60).until(
        lambda _: result.get_attribute("aria-busy") == "false" and result.get_attribute("data-verdict") == verdict
    )
    return result


def test_the_page_is_small_whole_and_always_the_same() -> None:
    page = build_page()
    assert page == build_page()
    assert len(page.encode()) < 100_000
    # No address of anything to fetch: what looks like one is text or a name.
    assert re.findall(r"""(?:src|href)=["']?([^"'\s>]+)""", page) == ["data:,"]
    assert "import(" not in page
    assert not re.search(r"\b(?:fetch|XMLHttpRequest|WebSocket|EventSource|sendBeacon|innerHTML|eval)\b", page)


def test_a_script_that_would_end_early_is_not_built_in() -> None:
    with pytest.raises(ValueError, match="its own end"):
        assemble("const text = '</SCRIPT>';")


def test_the_content_policy_stops_scripts_and_requests(browser: Inspector, page: Path, tmp_path: Path) -> None:
    intruder = tmp_path / "intruder.html"
    added = "<script>document.title = 'taken over'</script><img src='https://example.com/x.png'></main>"
    intruder.write_text(page.read_text().replace("</main>", added))
    browser.open(intruder)
    assert browser.driver.title == "EphemeralML receipt inspector"
    said = " ".join(browser.console())
    assert said.count("Content Security Policy") == 2
    asked = browser.driver.execute_async_script(
        "const done = arguments[0]; fetch('https://example.com/').then(() => done('sent'), () => done('stopped'));"
    )
    assert asked == "stopped"
    assert "connect" in " ".join(browser.console())


def test_files_are_chosen_and_policies_pasted_and_forgotten(
    inspector: Inspector, files: tuple[Path, Path], world: World
) -> None:
    bundle, policy = files
    find = inspector.driver.find_element
    find("id", "bundle").send_keys(str(bundle))
    wait(inspector, "refused")
    assert find("id", "bundle-state").text == "Bundle: answer.aer"
    find("id", "policy").send_keys(str(policy))
    wait(inspector, "not-confidential")
    assert find("id", "policy-state").text == "Policy: policy.json"
    find("id", "forget-policy").click()
    wait(inspector, "refused")
    assert not find("id", "forget-policy").is_displayed()
    find("css selector", "summary").click()
    find("id", "pasted").send_keys(world.policy.to_json())
    find("id", "use-pasted").click()
    wait(inspector, "not-confidential")


def test_it_is_used_by_keyboard_alone(inspector: Inspector, files: tuple[Path, Path]) -> None:
    from selenium.webdriver import ActionChains, Keys  # noqa: PLC0415

    inspector.driver.find_element("id", "bundle").send_keys(str(files[0]))
    wait(inspector, "refused")
    reached = []
    for _ in range(5):
        ActionChains(inspector.driver).send_keys(Keys.TAB).perform()
        focus = inspector.driver.switch_to.active_element
        reached.append(focus.get_attribute("id") or focus.tag_name)
        if focus.tag_name == "summary":
            focus.send_keys(Keys.ENTER)
        outline = focus.value_of_css_property("outline-style"), focus.value_of_css_property("outline-width")
        assert outline == ("solid", "3px"), reached
    assert reached == ["bundle", "policy", "summary", "pasted", "use-pasted"]


@pytest.mark.parametrize("size", [PHONE, (1280, 900)])
def test_nothing_runs_out_of_the_window(inspector: Inspector, files: tuple[Path, Path], size: tuple[int, int]) -> None:
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
    inspector.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        inspector.driver.find_element("id", "policy").send_keys(str(files[1]))
        inspector.driver.find_element("id", "bundle").send_keys(str(files[0]))
        wait(inspector, "not-confidential")
        seen = inspector.driver.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
        assert seen[0] == size[0]
        assert seen[1] <= size[0]
    finally:
        inspector.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_are_told_apart(inspector: Inspector, files: tuple[Path, Path], scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    inspector.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        inspector.driver.find_element("id", "policy").send_keys(str(files[1]))
        inspector.driver.find_element("id", "bundle").send_keys(str(files[0]))
        wait(inspector, "not-confidential")
        colours = inspector.driver.execute_script(
            "const style = getComputedStyle(document.documentElement);"
            "return Object.fromEntries(['ground', 'card', 'text', 'quiet', 'good', 'warn', 'bad', 'link']"
            ".map((name) => [name, style.getPropertyValue(`--${name}`).trim()]))"
        )
        for ground in ("ground", "card"):
            for ink in ("text", "quiet", "good", "warn", "bad", "link"):
                # WCAG 2.2, success criterion 1.4.3.
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    finally:
        inspector.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two ``#rrggbb`` colours."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    parts = [part / 255 for part in bytes.fromhex(colour.removeprefix("#"))]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_markup_in_a_file_is_shown_as_text(inspector: Inspector, world: World) -> None:
    attack = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
    (shown,) = inspector.judge([(world.bundle(iss=attack), world.policy.to_json().encode())])
    assert attack in shown.text
    assert inspector.driver.find_elements("css selector", "#result img, #result script") == []
    assert inspector.driver.title == "EphemeralML receipt inspector"


@pytest.mark.parametrize(
    "shortcoming",
    [
        "Object.defineProperty(crypto, 'subtle', { value: undefined })",
        "crypto.subtle.importKey = async () => { throw new DOMException('', 'NotSupportedError'); }",
        "File.prototype.slice = () => { throw new Error('unreadable'); }",
    ],
)
def test_a_browser_that_falls_short_gives_no_verdict(inspector: Inspector, world: World, shortcoming: str) -> None:
    inspector.driver.execute_script(shortcoming)
    (shown,) = inspector.judge([(world.bundle(), world.policy.to_json().encode())])
    assert (shown.verdict, shown.code, shown.steps) == ("no-verdict", "", ())
    assert "Nothing was verified" in shown.text


def test_the_last_file_dropped_is_the_one_judged(inspector: Inspector, world: World) -> None:
    good = base64.b64encode(world.bundle()).decode()
    inspector.driver.execute_script(
        """
        const drop = (bytes) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], "x.aer"));
          dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, cancelable: true }));
        };
        drop(Uint8Array.from(atob(arguments[0]), (character) => character.charCodeAt(0)));
        drop(new Uint8Array([1, 2, 3]));
        """,
        good,
    )
    assert "BUNDLE_FORMAT" in wait(inspector, "refused").text

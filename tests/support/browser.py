"""The inspector in a real Chromium: files dropped on it, what it shows read back, and what it asked the network for."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest

from ephemeralml.attestation import Policy
from ephemeralml.errors import PolicyError
from ephemeralml.inspector import judge_file

# One drop after another, each waited for; what the page shows is read from its own elements.
_JUDGE = """
const [cases, done] = arguments;
const result = document.getElementById("result");
const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
const idle = async () => {
  while (result.getAttribute("aria-busy") !== "false") await new Promise((resolve) => setTimeout(resolve));
};
(async () => {
  const outcomes = [];
  for (const [bundle, policy] of cases) {
    document.getElementById("forget-policy").click();
    await idle();
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes(bundle)], "answer.aer"));
    if (policy !== null) transfer.items.add(new File([bytes(policy)], "policy.json"));
    dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, cancelable: true }));
    await idle();
    const steps = [...result.querySelectorAll(".steps li")].filter((item) => !item.classList.contains("skipped"));
    outcomes.push({
      verdict: result.dataset.verdict,
      code: result.dataset.code,
      text: result.innerText,
      steps: steps.map((item) => [
        item.querySelector("h3").textContent,
        !item.classList.contains("failed"),
        item.querySelector(".value").textContent,
      ]),
    });
  }
  done(outcomes);
})();
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a verifier says: ``verified``, ``not-confidential``, ``no-policy`` or ``refused``, its code and steps."""

    verdict: str
    code: str
    steps: tuple[tuple[str, bool, str], ...]
    text: str = ""

    @property
    def shape(self) -> tuple[str, str, tuple[tuple[str, bool], ...]]:
        """All but the words."""
        return self.verdict, self.code, tuple((name, ok) for name, ok, _ in self.steps)


class Inspector:
    """One page in one browser."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path) -> None:
        """Load the page, afresh; what happened before is forgotten."""
        self.driver.get("about:blank")
        self.console(), self.requests()
        self.driver.get(page.as_uri())

    def judge(self, cases: Iterable[tuple[bytes, bytes | None]]) -> list[Outcome]:
        """Drop each bundle with its policy's JSON, or with none, and read what is shown."""
        encoded = [[_base64(bundle), None if policy is None else _base64(policy)] for bundle, policy in cases]
        shown = self.driver.execute_async_script(_JUDGE, encoded)
        return [
            Outcome(**{**outcome, "steps": tuple((name, ok, detail) for name, ok, detail in outcome["steps"])})
            for outcome in shown
        ]

    def console(self) -> list[str]:
        """What the page wrote or caused on the console since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Every address asked for since it was last asked, the page's own included."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def python_outcome(bundle: bytes, policy: bytes | None) -> Outcome:
    """What Python says of the same; no policy is the one that accepts any measurement, under AWS's root alone."""
    try:
        trusted = Policy.insecure_any_measurement() if policy is None else _load(policy)
    except PolicyError as error:
        return Outcome(verdict="refused", code=error.code, steps=())
    with _written(bundle) as path:
        findings = judge_file(path, policy=trusted)
    shown: Any = findings.shown
    kind = "no-policy" if policy is None and not findings.refused else findings.kind
    if not findings.refused:
        return Outcome(verdict=kind, code="", steps=_steps(shown))
    return Outcome(verdict=kind, code=shown.code, steps=_steps(getattr(shown, "verdict", None)))


def _steps(verdict: Any) -> tuple[tuple[str, bool, str], ...]:
    return tuple((step.name, step.ok, step.detail) for step in verdict.steps)


def _load(policy: bytes) -> Policy:
    with _written(policy) as path:
        return Policy.load(path)


@contextmanager
def _written(data: bytes) -> Iterator[Path]:
    with NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        yield Path(file.name)


@contextmanager
def chromium(profile: Path) -> Iterator[Inspector]:
    """A headless Chromium with an empty `profile`, at a phone's or any other size; skips where there is none."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("NO BROWSER: the inspector is not tested here (apt-get install chromium chromium-driver)")
    # Half a second of imports, for the tests that have a browser.
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService  # noqa: PLC0415

    options = ChromeOptions()
    options.binary_location = browser
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-dev-shm-usage"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = Chrome(options=options, service=ChromeService(driver))
    try:
        window.set_script_timeout(300)
        yield Inspector(window)
    finally:
        window.quit()

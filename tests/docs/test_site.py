"""The docs site: what is gathered for it, and what a browser sees of it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from browser import Inspector, chromium
from hypothesis import given
from hypothesis import strategies as st
from pages import ROOT, script

SITE = script("build_site")
BUILT = ROOT / "build" / "site"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "src").mkdir()
    (tmp_path / "README.md").write_text(
        "[a](docs/a.md#part) ![](docs/logo.svg) [out](https://example.org/x.md) `[no](nowhere)`"
    )
    (tmp_path / "docs" / "a.md").write_text(
        '# A\n\n```\n[no](nowhere)\n```\n[up](../README.md) <img src="../src/x.py">'
    )
    (tmp_path / "docs" / "logo.svg").write_text("<svg/>")
    (tmp_path / "src" / "x.py").write_text("[no](nowhere)")
    return tmp_path


def settings(*nav: Any) -> dict[str, Any]:
    return {"nav": nav, "theme": {"favicon": "docs/logo.svg", "logo": "docs/logo.svg"}}


def test_pages_come_with_all_that_they_link_to(tree: Path) -> None:
    files, problems = SITE.gather(tree, settings({"Home": "README.md"}, {"How": ["docs/a.md"]}))
    assert problems == []
    assert {str(file) for file in files} == {"README.md", "docs/a.md", "docs/logo.svg", "src/x.py"}


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("[x](docs/b.md)", "docs/b.md"),
        ("[x](src/)", "src/"),
        ("![x](docs/b.png)", "docs/b.png"),
        ("[x](../../etc/passwd)", "../../etc/passwd"),
        ('<a href="docs/b.md#part">x</a>', "docs/b.md"),
    ],
)
def test_a_link_to_no_file_of_the_repository_is_a_problem(tree: Path, link: str, said: str) -> None:
    (tree / "README.md").write_text(link)
    _, problems = SITE.gather(tree, settings("README.md", "docs/a.md"))
    assert problems == [f"README.md: links to {said}, which is no file of this repository"]


def test_the_navigation_has_every_page_and_no_other(tree: Path) -> None:
    assert SITE.gather(tree, settings("README.md"))[1] == ["zensical.toml: the navigation lacks docs/a.md"]
    _, problems = SITE.gather(tree, settings("README.md", "docs/a.md", "docs/b.md"))
    assert problems == ["zensical.toml: the navigation has docs/b.md, which is not there"]


@given(st.text())
def test_no_text_breaks_the_search_for_links(text: str) -> None:
    assert all(path and "#" not in path for path in SITE.links(text))


def test_the_repository_has_no_broken_link_and_no_page_apart() -> None:
    project = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    assert SITE.gather(ROOT, project)[1] == []


@dataclass(frozen=True)
class Served:
    """The built site in a browser, from a server of the test's own."""

    window: Inspector
    address: str

    def show(self, page: str) -> None:
        self.window.driver.get("about:blank")
        self.window.console(), self.window.requests()
        self.window.driver.get(f"{self.address}/{page}")

    def find(self, text: str) -> str:
        """What the page's search shows, once it shows anything."""
        self.window.driver.execute_script("document.querySelector('button.md-search__button').click()")
        return str(self.window.driver.execute_async_script(_SEARCH, text))


_SEARCH = """
const [text, done] = arguments;
const look = () => {
  const shadow = [...document.querySelectorAll("div")].map((item) => item.shadowRoot).find(Boolean);
  const input = shadow?.querySelector("input");
  if (!input) return setTimeout(look);
  if (input.value !== text) {
    input.value = text;
    input.dispatchEvent(new Event("input", { bubbles: true }));
  }
  const found = shadow.querySelector("[role=listbox]")?.textContent;
  found ? done(found) : setTimeout(look);
};
look();
"""
_ASK = """
const [url, done] = arguments;
document.addEventListener("securitypolicyviolation", (event) => done(event.violatedDirective));
const script = document.createElement("script");
script.onload = script.onerror = () => setTimeout(() => done("not forbidden"), 500);
script.src = url;
document.head.append(script);
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    if not BUILT.is_dir():
        pytest.skip("NO SITE: it is not tested here (make docs)")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with (
        ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(BUILT))) as server,
        chromium(tmp_path_factory.mktemp("site")) as window,
    ):
        Thread(target=server.serve_forever, daemon=True).start()
        yield Served(window, f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_no_page_asks_another_host_or_complains(served: Served) -> None:
    for page in sorted(path.relative_to(BUILT).as_posix() for path in BUILT.rglob("*.html")):
        served.show(page)
        asked = [url for url in served.window.requests() if not url.startswith((served.address, "data:", "blob:"))]
        assert (page, asked, served.window.console()) == (page, [], [])


def test_the_browser_itself_forbids_what_another_host_has(served: Served) -> None:
    served.show("index.html")
    assert served.window.driver.execute_async_script(_ASK, "http://localhost:1/x.js") == "script-src-elem"


def test_the_search_works_without_another_host(served: Served) -> None:
    served.show("index.html")
    assert "Rotate" in served.find("rewrap")
    assert served.window.console() == []

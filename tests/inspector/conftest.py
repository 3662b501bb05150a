"""The page as it is shipped, in a browser, and bundles to drop on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Inspector, chromium
from bundles import World, make_world

from ephemeralml.inspector import build_page


@pytest.fixture(scope="session")
def world() -> World:
    return make_world()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inspector]:
    with chromium(tmp_path_factory.mktemp("profile")) as inspector:
        yield inspector


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "inspector.html"
    path.write_text(build_page(), encoding="utf-8")
    return path


@pytest.fixture
def inspector(browser: Inspector, page: Path) -> Iterator[Inspector]:
    """The page, freshly loaded. When the test is over: no word on the console, no request but for the page."""
    browser.open(page)
    yield browser
    assert browser.console() == []
    assert [url for url in browser.requests() if not url.startswith("data:")] == [page.as_uri()]

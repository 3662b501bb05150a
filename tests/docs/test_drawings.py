"""The drawings are what the script writes, and can be read: no words on words, none outside, ink on every ground."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "drawings"
SVG = "{http://www.w3.org/2000/svg}"
NAMES = ("key-release", "receipt", "session", "zones")


@pytest.fixture(scope="module")
def scripts() -> tuple[ModuleType, ModuleType]:
    """`draw` and `drawing`, as they are when the script is run."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        return importlib.import_module("draw"), importlib.import_module("drawing")
    finally:
        del sys.path[0]


@dataclass(frozen=True)
class Box:
    """A rectangle, in the drawing's pixels."""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlaps(self, other: Box) -> bool:
        return self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1

    def holds(self, other: Box) -> bool:
        return self.x0 <= other.x0 and other.x1 <= self.x1 and self.y0 <= other.y0 and other.y1 <= self.y1


def read(name: str) -> ET.Element:
    return ET.fromstring((FOLDER / f"{name}.svg").read_bytes())


def number(element: ET.Element, name: str) -> float:
    return float(element.attrib[name])


def labels(root: ET.Element, drawing: ModuleType) -> dict[Box, str]:
    found = {}
    for element in root.iter(f"{SVG}text"):
        assert element.text
        width = drawing.text_width(element.text, bold="font-weight" in element.attrib)
        left = number(element, "x") - (width / 2 if element.get("text-anchor") == "middle" else 0)
        y = number(element, "y")
        found[Box(left, y - 0.8 * drawing.SIZE, left + width, y + 0.25 * drawing.SIZE)] = element.text
    return found


def boxes(root: ET.Element) -> list[Box]:
    """The boxes in it; the first is the page."""
    return [
        Box(x := number(item, "x"), y := number(item, "y"), x + number(item, "width"), y + number(item, "height"))
        for item in root.iter(f"{SVG}rect")
    ]


def test_committed_drawings_are_what_the_script_writes(scripts: tuple[ModuleType, ModuleType]) -> None:
    draw, _ = scripts
    assert sorted(draw.DRAWINGS) == sorted(path.stem for path in FOLDER.iterdir()) == list(NAMES)
    for name, make in draw.DRAWINGS.items():
        assert (FOLDER / f"{name}.svg").read_text() == make().render(), "run scripts/draw.py"


@pytest.mark.parametrize("name", NAMES)
def test_no_label_lies_on_another_nor_outside_its_box(name: str, scripts: tuple[ModuleType, ModuleType]) -> None:
    root = read(name)
    page, *others = boxes(root)
    words = labels(root, scripts[1])
    assert len(words) > 10
    clashes = [(words[one], words[other]) for one, other in combinations(words, 2) if one.overlaps(other)]
    assert not clashes
    for label, text in words.items():
        assert page.holds(label), text
        assert all(box.holds(label) for box in others if box.overlaps(label)), text
    assert not [pair for pair in combinations(others, 2) if pair[0].overlaps(pair[1])]


@pytest.mark.parametrize("name", NAMES)
def test_no_line_runs_through_words_nor_an_arrow_through_boxes(
    name: str, scripts: tuple[ModuleType, ModuleType]
) -> None:
    root = read(name)
    others = boxes(root)[1:]
    # A box covers the part of a party's line that is behind it.
    bare = [label for label in labels(root, scripts[1]) if not any(box.overlaps(label) for box in others)]
    assert bare
    for line in root.iter(f"{SVG}line"):
        (x0, x1), (y0, y1) = (sorted((number(line, f"{axis}1"), number(line, f"{axis}2"))) for axis in "xy")
        obstacles = [*bare, *others] if line.attrib["class"] == "arrow" else bare
        assert not any(Box(x0 - 1, y0 - 1, x1 + 1, y1 + 1).overlaps(obstacle) for obstacle in obstacles)


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_shows_and_fetches_nothing(name: str) -> None:
    root = read(name)
    text = (FOLDER / f"{name}.svg").read_text()
    assert root.attrib["role"] == "img"
    named = {item.get("id"): item.text or "" for item in root}
    assert all(len(named[part]) > 15 for part in root.attrib["aria-labelledby"].split())
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert not any(word in text for word in ("@import", "url(data", "<script", "<image", "font-face"))


def test_text_is_large_enough_on_a_phone(scripts: tuple[ModuleType, ModuleType]) -> None:
    _, drawing = scripts
    assert drawing.SIZE * (390 - 2 * 16) / drawing.WIDTH >= 12


def test_ink_stands_out_on_every_ground(scripts: tuple[ModuleType, ModuleType]) -> None:
    _, drawing = scripts
    for ink, palette in zip(drawing.INK, (drawing.LIGHT, drawing.DARK), strict=True):
        for ground, edge in palette.values():
            assert contrast(ink, ground) >= 7
            assert contrast(edge, ground) >= 3 or ground == palette["page"][0]


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[start:end], 16) / 255 for start, end in pairwise((1, 3, 5, 7))]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue

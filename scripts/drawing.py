"""A drawing as SVG: boxes of wrapped text from top to bottom, and arrows. Text stays text, in any font."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from xml.sax.saxutils import escape

WIDTH: Final = 440
MARGIN: Final = 16
PAD: Final = 12
SIZE: Final = 15
LEADING: Final = 21

# What each kind of thing is painted with: its ground, its edge. Opaque, so that a page's own ground does not matter.
LIGHT: Final = {
    "page": ("#ffffff", "#d0d7de"),
    "client": ("#e7f0fb", "#2f6fb5"),
    "host": ("#f3f4f6", "#6e7781"),
    "enclave": ("#e6f4ea", "#2d7d46"),
    "kms": ("#f1eafb", "#7048b6"),
    "note": ("#fff6dd", "#9a6700"),
}
DARK: Final = {
    "page": ("#161b22", "#3d444d"),
    "client": ("#13263d", "#6cb0ff"),
    "host": ("#22272e", "#9da7b3"),
    "enclave": ("#12301c", "#5bd07f"),
    "kms": ("#271c3f", "#b892ff"),
    "note": ("#33290e", "#e3b341"),
}
INK: Final = ("#1f2328", "#e6edf3")

# Widths in em of DejaVu Sans, the widest of the fonts a browser is likely to take.
_WIDTHS: Final = {
    **dict.fromkeys("ijl'|I", 0.3),
    **dict.fromkeys(" .,:;ft-()[]/!", 0.4),
    **dict.fromkeys("mwMW→…@%", 1.0),
    **dict.fromkeys("rsczJ", 0.56),
}
_BOLD: Final = 1.12


def text_width(text: str, *, size: float = SIZE, bold: bool = False) -> float:
    """Pixels that `text` takes at most."""
    em = sum(_WIDTHS.get(character, 0.8 if character.isupper() else 0.64) for character in text)
    return em * size * (_BOLD if bold else 1)


def wrap(text: str, width: float) -> list[str]:
    """`text` in lines no wider than `width` pixels, broken at spaces; a line break in it is kept."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and text_width(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines


@dataclass
class Drawing:
    """A page of `WIDTH` pixels that grows downwards; `y` is where the next thing goes."""

    title: str
    description: str
    y: float = MARGIN
    _shapes: list[str] = field(default_factory=list)

    def box(self, kind: str, heading: str, *paragraphs: str) -> None:
        """A box with a bold heading and paragraphs below it; `y` moves under it."""
        self.row((kind, heading, paragraphs))

    def row(self, *boxes: tuple[str, str, tuple[str, ...]]) -> None:
        """Boxes beside each other, as high as the highest."""
        width = (WIDTH - 2 * MARGIN - PAD * (len(boxes) - 1)) / len(boxes)
        contents = [_lines(heading, paragraphs, width - 2 * PAD) for _, heading, paragraphs in boxes]
        height = 2 * PAD + LEADING * max(len(lines) for lines in contents)
        for index, ((kind, _, _), lines) in enumerate(zip(boxes, contents, strict=True)):
            x = MARGIN + index * (width + PAD)
            dash = ' stroke-dasharray="5 4"' if kind == "host" else ""
            self._shapes.append(
                f'<rect class="{kind}" x="{x:g}" y="{self.y:g}" width="{width:g}" height="{height:g}" rx="8"{dash}/>'
            )
            for line, (text, bold) in enumerate(lines):
                self._text(x + PAD, self.y + PAD + line * LEADING + SIZE, text, bold=bold)
        self.y += height

    def gap(self, pixels: float = PAD) -> None:
        """Leave some room."""
        self.y += pixels

    def words(self, text: str, *, x: float = WIDTH / 2, width: float = WIDTH - 2 * MARGIN) -> None:
        """Centred lines of text, not in a box; `y` moves under them."""
        for line in wrap(text, width):
            self.y += LEADING
            self._text(x, self.y - 6, line, anchor="middle")

    def message(self, start: float, end: float, text: str) -> None:
        """An arrow from one x to another, its words above it; `y` moves under it."""
        self.words(text, x=(start + end) / 2, width=abs(end - start) - PAD)
        self.y += 4
        self.arrow(start, self.y, end, self.y)
        self.y += PAD

    def down(self, text: str, *, both: bool = False) -> None:
        """An arrow from what is above to what is below, its words beside it."""
        lines = wrap(text, WIDTH - 2 * MARGIN - 60)
        height = max(34, LEADING * len(lines) + PAD)
        self.arrow(MARGIN + 36, self.y + 3, MARGIN + 36, self.y + height - 3, both=both)
        baseline = self.y + (height - LEADING * len(lines)) / 2 + SIZE
        for index, line in enumerate(lines):
            self._text(MARGIN + 54, baseline + index * LEADING, line)
        self.y += height

    def arrow(self, x1: float, y1: float, x2: float, y2: float, *, both: bool = False) -> None:
        """A line with a head at its end, or at both."""
        head = ' marker-start="url(#head)"' if both else ""
        self._shapes.append(
            f'<line class="arrow" x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" marker-end="url(#head)"{head}/>'
        )

    def lifeline(self, x: float, top: float) -> None:
        """A party's line in a sequence, from `top` to here, behind everything else."""
        self._shapes.insert(0, f'<line class="life" x1="{x:g}" y1="{top:g}" x2="{x:g}" y2="{self.y:g}"/>')

    def render(self) -> str:
        """The SVG file."""
        height = self.y + MARGIN
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}"'
                f' height="{height:g}" role="img" aria-labelledby="title description">',
                f'<title id="title">{escape(self.title)}</title>',
                f'<desc id="description">{escape(self.description)}</desc>',
                f"<style>\n{_rules(0)}\n@media (prefers-color-scheme: dark) {{\n{_rules(1)}\n}}\n</style>",
                '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8"'
                ' orient="auto-start-reverse"><path class="head" d="M0 0L8 4L0 8z"/></marker>',
                f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:g}" rx="10"/>',
                *self._shapes,
                "</svg>\n",
            ]
        )

    def _text(self, x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False) -> None:
        weight = ' font-weight="700"' if bold else ""
        where = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self._shapes.append(f'<text x="{x:g}" y="{y:g}"{where}{weight}>{escape(text)}</text>')


def _lines(heading: str, paragraphs: tuple[str, ...], width: float) -> list[tuple[str, bool]]:
    bold = [(line, True) for line in wrap(heading, width / _BOLD)]
    return bold + [(line, False) for paragraph in paragraphs for line in wrap(paragraph, width)]


def _rules(dark: int) -> str:
    ink = INK[dark]
    palette = (LIGHT, DARK)[dark]
    rules = [f".{kind} {{ fill: {fill}; stroke: {edge}; }}" for kind, (fill, edge) in palette.items()]
    rules += [
        f"text, .head {{ fill: {ink}; }}",
        f".arrow {{ stroke: {ink}; }}",
        f".life {{ stroke: {palette['host'][1]}; }}",
    ]
    if not dark:
        rules += [
            f'text {{ font: {SIZE}px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }}',
            "text[font-weight] { font-weight: 700; }",
            ".arrow { stroke-width: 1.5; }",
            ".life { stroke-dasharray: 2 5; }",
        ]
    return "\n".join(rules)

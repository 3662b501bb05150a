"""A page as blocks, written as Markdown or as HTML that needs no other file."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, TypeAlias

_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}"
    "table{border-collapse:collapse;margin:1rem 0;font-size:.9rem;display:block;overflow-x:auto}"
    "th,td{border:1px solid #d0d7de;padding:.3rem .6rem;text-align:left;vertical-align:top}"
    "th{background:#f6f8fa}img{max-width:100%}code{background:#f6f8fa;padding:.1rem .3rem}"
)
_LINK: Final = re.compile(r"\[([^\]]+)\]\((https?://[^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Heading:
    """Level 1 to 3."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """May hold **bold**, `code` and [links](https://…)."""

    text: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list of such texts."""

    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """Cells are such texts too."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Picture:
    """One of the page's pictures, by its file's name."""

    name: str
    words: str


Block: TypeAlias = Heading | Paragraph | Items | Table | Picture


def to_markdown(blocks: Iterable[Block]) -> str:
    """GitHub's Markdown."""
    return "\n\n".join("\n".join(_lines(block)) for block in blocks) + "\n"


def to_html(title: str, blocks: Iterable[Block], pictures: Mapping[str, bytes]) -> str:
    """One file: style and pictures (PNG) are in it."""
    body = "\n".join(_html(block, pictures) for block in blocks)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def _lines(block: Block) -> Iterator[str]:
    match block:
        case Heading(level, text):
            yield f"{'#' * level} {text}"
        case Paragraph(text):
            yield text
        case Items(texts):
            yield from (f"- {text}" for text in texts)
        case Table(head, rows):
            yield f"| {' | '.join(head)} |"
            yield "|" + "---|" * len(head)
            for row in rows:
                yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"
        case Picture(name, words):
            yield f"![{words}]({name})"


def _html(block: Block, pictures: Mapping[str, bytes]) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{_inline(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_inline(text)}</p>"
        case Items(texts):
            return f"<ul>{''.join(f'<li>{_inline(text)}</li>' for text in texts)}</ul>"
        case Table(head, rows):
            heads = "".join(f"<th>{_inline(cell)}</th>" for cell in head)
            lines = "".join(f"<tr>{''.join(f'<td>{_inline(cell)}</td>' for cell in row)}</tr>" for row in rows)
            return f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"
        case Picture(name, words):
            data = base64.b64encode(pictures[name]).decode()
            return f'<p><img alt="{escape(words)}" src="data:image/png;base64,{data}"></p>'


def _inline(text: str) -> str:
    whole = escape(text, quote=False)
    whole = _LINK.sub(r'<a href="\2">\1</a>', whole)
    whole = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", whole)
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", whole)

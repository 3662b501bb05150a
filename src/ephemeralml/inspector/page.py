"""The inspector: one HTML file, put together from the sources in ``web/``, that asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from string import Template
from typing import Any, Final

# In the order in which one uses the other; together they are one module.
SCRIPTS: Final = (
    "bytes.js",
    "cbor.js",
    "cose.js",
    "der.js",
    "x509.js",
    "document.js",
    "chain.js",
    "json.js",
    "policy.js",
    "manifest.js",
    "receipt.js",
    "verify.js",
    "bundles.js",
    "page.js",
)


def build_page() -> str:
    """The page: always the same text for the same sources, whoever builds it and when."""
    return assemble("\n".join(read_source(name) for name in SCRIPTS))


def assemble(code: str) -> str:
    """The page around `code`, which its content security policy names by hash, so that nothing else ever runs."""
    words = json.dumps(read_words(), ensure_ascii=False, indent=2)
    script = f"\nconst WORDS = {words};\n\n{code}"
    if "</script" in script.lower():
        raise ValueError("a script must not hold its own end")
    style = read_source("page.css")
    policy = content_policy(style=style, script=script)
    return Template(read_source("page.html")).substitute(policy=policy, style=style, script=script)


def content_policy(*, style: str, script: str | None = None) -> str:
    """A Content-Security-Policy that allows this style sheet and script, and no request, form or frame at all."""
    allowed = ["default-src 'none'", f"style-src {_source(style)}"]
    if script is not None:
        allowed += [f"script-src {_source(script)}", "require-trusted-types-for 'script'", "trusted-types 'none'"]
    # The empty icon, without which a browser would ask the server of the page for one.
    return "; ".join([*allowed, "img-src data:", "base-uri 'none'", "form-action 'none'"])


def read_source(name: str) -> str:
    """A file of ``web/``."""
    return (files(__package__) / "web" / name).read_text(encoding="utf-8")


def read_words() -> dict[str, Any]:
    """The words that page and report share: ``steps`` in order, ``titles`` of verdicts, ``limits`` of the proof."""
    words: dict[str, Any] = json.loads(read_source("words.json"))
    return words


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

"""Show what is inside a package, document, receipt or bundle. It shows; only `verify` judges."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from ephemeralml.attestation import AttestationDocument
from ephemeralml.cli.output import AsJson, print_json
from ephemeralml.codec import cose
from ephemeralml.errors import CodecError, EphemeralMLError
from ephemeralml.package import FolderSource, Manifest
from ephemeralml.receipts import Bundle, Claims
from ephemeralml.texts import printable

_MAX_BYTES = 256 * 1024
_RECEIPT_BYTES = 64 * 1024


def inspect(
    path: Annotated[Path, typer.Argument(help="A package folder, manifest, document, receipt or .aer bundle.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Show what is inside a file, without judging it.

    Example: ephemeralml inspect proof.aer
    """
    kind, content = _read(path)
    if as_json:
        print_json({"kind": kind, **content})
        return
    print(f"{kind} (shown, not verified: `ephemeralml verify` judges)")
    _print(content, 1)


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    if path.is_dir():
        return "package", _manifest(FolderSource(path).manifest())
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES)
    for kind, reader in (("bundle", _bundle), ("receipt", _receipt), ("manifest", _manifest), ("document", _document)):
        try:
            return kind, reader(data)
        except EphemeralMLError:
            continue
    raise CodecError(f"{path} is none of package, manifest, document, receipt or bundle", code="inspect.unknown")


def _bundle(data: bytes) -> dict[str, Any]:
    bundle = Bundle.from_bytes(data)
    return {
        "receipt": _receipt(bundle.receipt),
        "document": _document(bundle.document),
        "manifest": _manifest(bundle.manifest),
    }


def _receipt(data: bytes) -> dict[str, Any]:
    return dict(_plain(Claims.from_payload(cose.parse(data, tagged=True, limit=_RECEIPT_BYTES).payload)))


def _manifest(data: bytes) -> dict[str, Any]:
    manifest = Manifest.verify(data, owner=None)
    return {**_plain(manifest), "digest": manifest.digest.hex()}


def _document(data: bytes) -> dict[str, Any]:
    document = AttestationDocument.parse(data)
    return {
        "module_id": document.module_id,
        "timestamp": document.timestamp.isoformat(),
        "debug": document.debug,
        "pcrs": {str(index): value.hex() for index, value in document.pcrs.items() if any(value)},
        **{name: _plain(getattr(document, name)) for name in ("public_key", "user_data", "nonce")},
    }


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "items"):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def _print(content: dict[str, Any], depth: int) -> None:
    width = max((len(key) for key in content), default=0)
    for key, value in content.items():
        indent = "  " * depth
        if isinstance(value, dict):
            print(f"{indent}{printable(key)}")
            _print(value, depth + 1)
        elif isinstance(value, list):
            print(f"{indent}{printable(key)}")
            for item in value:
                print(
                    f"{indent}  - "
                    + printable(", ".join(f"{k} {v}" for k, v in item.items()) if isinstance(item, dict) else f"{item}")
                )
        else:
            print(f"{indent}{printable(key):{width}}  {printable(str(value))}")

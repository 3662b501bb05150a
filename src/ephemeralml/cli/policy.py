"""Policies: make one from measurements, show one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ephemeralml.attestation import Measurements, Policy
from ephemeralml.cli.output import AsJson, print_json
from ephemeralml.errors import PolicyError

app = typer.Typer(help="What a client trusts: measurements, models, roots.", no_args_is_help=True)
_MAX_BYTES = 64 * 1024
_NAMES = {"PCR0": "pcr0", "PCR1": "pcr1", "PCR2": "pcr2", "PCR3": "pcr3", "PCR4": "pcr4", "PCR8": "pcr8"}


@app.command()
def create(
    *,
    measurements: Annotated[
        list[Path], typer.Option(help="JSON with PCR0, PCR1, PCR2 in hex; once for each release allowed.")
    ],
    out: Annotated[Path, typer.Option(help="The policy file.")],
    model: Annotated[list[str] | None, typer.Option(help="Digest of a model allowed, 64 hex digits.")] = None,
    model_id: Annotated[str | None, typer.Option(help="Name of the only model allowed.")] = None,
    minimum_version: Annotated[int | None, typer.Option(min=1, help="Lowest model version allowed.")] = None,
    root: Annotated[list[Path] | None, typer.Option(help="A development root (DER): NOT confidential.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a policy.

    Example: ephemeralml policy create --measurements measurements.json --out policy.json
    """
    policy = Policy(
        measurements=[read_measurements(path) for path in measurements],
        models=[_digest(text) for text in model or []],
        model_id=model_id,
        minimum_model_version=minimum_version,
        extra_roots=[path.read_bytes() for path in root or []],
    )
    policy.save(out)
    if as_json:
        print_json({"policy": str(out), "development_roots": len(policy.extra_roots)})
        return
    print(f"wrote {out}")
    if policy.extra_roots:
        print("it trusts a development root: good for trying things out, not confidential")


@app.command()
def show(path: Annotated[Path, typer.Argument(help="A policy file.")]) -> None:
    """Show a policy, in the form it is kept in.

    Example: ephemeralml policy show policy.json
    """
    print(Policy.load(path).to_json())


def read_measurements(path: Path) -> Measurements:
    """Measurements from the JSON that `enclave measure` prints. Raises `PolicyError`."""
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"{path} is not JSON: {error}", code="policy.measurements") from error
    if not isinstance(value, dict) or not value or not set(value) <= set(_NAMES):
        raise PolicyError(
            f"{path} must hold PCR0, PCR1 and PCR2 (PCR3, PCR4, PCR8 if wanted)", code="policy.measurements"
        )
    missing = {"PCR0", "PCR1", "PCR2"} - set(value)
    if missing:
        raise PolicyError(f"{path} lacks {', '.join(sorted(missing))}", code="policy.measurements")
    return Measurements(**{_NAMES[name]: pcr for name, pcr in value.items()})


def _digest(text: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise PolicyError(f"{text!r} is not a model digest: 64 hex digits are needed", code="policy.model")
    return digest

"""What is ready here, and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ephemeralml.cli.output import AsJson, print_json
from ephemeralml.host.doctor.checks import Platform

if TYPE_CHECKING:
    from ephemeralml.host.doctor import Finding

_STYLES = {"ok": "green", "failed": "bold red", "unknown": "yellow", "not applicable": "dim"}


def doctor(
    *,
    platform: Annotated[Platform, typer.Option(help="Where the enclave is to run.")] = Platform.LOCAL,
    eif: Annotated[Path | None, typer.Option(help="The enclave image.")] = None,
    memory: Annotated[int, typer.Option(min=64, help="Memory of the enclave, MiB.")] = 1024,
    cpus: Annotated[int, typer.Option(min=1, help="CPUs of the enclave.")] = 2,
    package: Annotated[str | None, typer.Option(help="The package: a folder or s3://bucket/prefix.")] = None,
    configuration: Annotated[
        Path | None, typer.Option(help="The enclave's configuration: its owner is to have signed the package.")
    ] = None,
    key_arn: Annotated[str | None, typer.Option(help="The model's KMS key; default: the package's.")] = None,
    relay: Annotated[str, typer.Option(help="Where clients are to connect.")] = "tcp://127.0.0.1:7001",
    as_json: AsJson = False,
) -> None:
    """Look whether a run would work here. Every fault comes with its fix; exit status 0 only when it would.

    Example: ephemeralml doctor --platform nitro --eif enclave.eif --package s3://…/release/package --memory 3072
    """
    from ephemeralml.devcloud.qemu import Qemu  # noqa: PLC0415
    from ephemeralml.enclave.configuration import Configuration  # noqa: PLC0415
    from ephemeralml.host.doctor import Plan, examine, ready  # noqa: PLC0415
    from ephemeralml.image import measure_eif  # noqa: PLC0415

    plan = Plan(
        platform=platform,
        eif=eif,
        measure=measure_eif,
        find_qemu=lambda: Qemu.find().folder,
        memory_mib=memory,
        cpus=cpus,
        package=package,
        owner=None if configuration is None else Configuration.load(configuration).model_owner,
        key_arn=key_arn,
        relay=relay,
    )
    findings = list(examine(plan))
    good = ready(findings)
    if as_json:
        print_json({"platform": platform, "ready": good, "checks": [asdict(item) for item in findings]})
    else:
        _show(platform, findings, good=good)
    raise typer.Exit(0 if good else 1)


def _show(platform: Platform, findings: Sequence[Finding], *, good: bool) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    table = Table(box=None, pad_edge=False)
    for name in ("check", "state", "found, and what to do"):
        table.add_column(name, no_wrap=name != "found, and what to do", overflow="fold")
    for item in findings:
        # Text, not markup: what was found holds anything.
        fix = f"\n→ {item.fix}" if item.fix else ""
        table.add_row(item.check, Text(item.state, style=_STYLES[item.state]), Text(item.reason + fix))
    console.print(table)
    bad = [item.check for item in findings if item.state in {"failed", "unknown"}]
    said = f"\n{platform}: ready" if good else f"\n{platform}: not ready: {', '.join(bad)}"
    console.print(said, style="bold", markup=False, highlight=False)

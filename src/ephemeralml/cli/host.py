"""The host's command: relay, services and the enclave in one process."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from ephemeralml.session.transport import Address

app = typer.Typer(help="The untrusted host: relay, key broker, artifact feed.", no_args_is_help=True)


@app.command()
def run(
    package: Annotated[Path, typer.Argument(help="The encrypted package's folder.")],
    *,
    configuration: Annotated[Path | None, typer.Option(help="Start an enclave with this configuration.")] = None,
    root: Annotated[Path, typer.Option(help="Development root for that enclave.")] = Path("dev-root"),
    connect: Annotated[str | None, typer.Option(help="Or use the enclave that listens here.")] = None,
    services: Annotated[str | None, typer.Option(help="Where that enclave finds this host.")] = None,
    relay: Annotated[str, typer.Option(help="Where clients connect.")] = "tcp://127.0.0.1:7001",
    kms_endpoint: Annotated[str | None, typer.Option(help="Another KMS than AWS's (see kms run).")] = None,
    kms_tunnel: Annotated[
        bool, typer.Option("--kms-tunnel", help="For an enclave with kms_roots: hand it credentials, carry its TLS.")
    ] = False,
    json_lines: Annotated[bool, typer.Option("--json", help="Events as JSON lines.")] = False,
) -> None:
    """Serve clients until stopped (Ctrl-C).

    Example: ephemeralml host run package --configuration enclave.json --root dev-root --kms-endpoint http://127.0.0.1:7002
    """
    from ephemeralml.enclave.configuration import Configuration  # noqa: PLC0415
    from ephemeralml.host.relay import Relayed  # noqa: PLC0415
    from ephemeralml.host.run import HostPlan, run_host  # noqa: PLC0415
    from ephemeralml.package import FolderSource  # noqa: PLC0415

    if (configuration is None) == (connect is None):
        raise typer.BadParameter("give either --configuration (start an enclave) or --connect (use a running one)")
    if connect is not None and services is None:
        raise typer.BadParameter("--connect needs --services, the address that enclave was given as --host")

    def say(event: str, **values: object) -> None:
        line = json.dumps({"event": event, **values}) if json_lines else f"host: {event} {_plain(values)}"
        print(line, file=sys.stdout if json_lines else sys.stderr, flush=True)

    def closed(relayed: Relayed) -> None:
        say("connection closed", bytes_to_enclave=relayed.to_enclave, bytes_to_client=relayed.to_client)

    source = FolderSource(package)
    # What is not there, or cannot work, is the operator's mistake: said before anything starts.
    source.manifest()
    if configuration is not None:
        Configuration.load(configuration)
    with tempfile.TemporaryDirectory(prefix="ephemeralml-") as folder:
        enclave_at = Address.parse(connect or f"unix://{folder}/enclave.sock")
        services_at = Address.parse(services or f"unix://{folder}/host.sock")
        launch: list[str] = []
        if configuration is not None:
            launch = [
                *(sys.executable, "-m", "ephemeralml.cli", "enclave", "run", str(configuration)),
                *("--listen", str(enclave_at), "--host", str(services_at), "--root", str(root)),
            ]
        plan = HostPlan(
            relay=Address.parse(relay),
            services=services_at,
            enclave=enclave_at,
            launch=launch,
            kms_endpoint=kms_endpoint,
            kms_tunnel=kms_tunnel,
        )
        asyncio.run(
            run_host(
                plan,
                source=source,
                on_ready=lambda address, stages: say("ready", relay=str(address), boot=stages),
                on_closed=closed,
            )
        )


def _plain(values: dict[str, object]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())

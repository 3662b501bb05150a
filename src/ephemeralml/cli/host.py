"""The host's command: relay, services and the enclave in one process."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ephemeralml.cli.logs import Log, LogFormat, LogOption
from ephemeralml.session.transport import Address

if TYPE_CHECKING:
    from ephemeralml.host.launch import Launcher, LocalLauncher

app = typer.Typer(help="The untrusted host: relay, key broker, artifact feed.", no_args_is_help=True)


class Platform(StrEnum):
    """What runs the enclave."""

    LOCAL = "local"
    NITRO = "nitro"
    VM = "vm"


@app.command()
def run(
    package: Annotated[str, typer.Argument(help="The encrypted package's folder, or s3://bucket/prefix.")],
    *,
    platform: Annotated[Platform, typer.Option(help="What runs the enclave.")] = Platform.LOCAL,
    configuration: Annotated[Path | None, typer.Option(help="local: start an enclave with this configuration.")] = None,
    root: Annotated[Path, typer.Option(help="local, vm: development root for that enclave.")] = Path("dev-root"),
    eif: Annotated[Path | None, typer.Option(help="nitro, vm: start this enclave image.")] = None,
    cpus: Annotated[int, typer.Option(min=1, help="nitro, vm: vCPUs of the enclave.")] = 2,
    memory: Annotated[int, typer.Option(min=64, help="nitro, vm: memory of the enclave, MiB.")] = 1024,
    cid: Annotated[int | None, typer.Option(min=4, max=2**32 - 2, help="nitro: its CID, else any free one.")] = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="nitro, vm: show its console. NOT confidential, no key.")
    ] = False,
    measurements: Annotated[Path | None, typer.Option(help="nitro, vm: JSON of the PCRs the image must have.")] = None,
    connect: Annotated[
        str | None,
        typer.Option(help="The enclave listens here; local: start none. nitro: vsock://CID:5000 if absent; vm: any."),
    ] = None,
    services: Annotated[str | None, typer.Option(help="Where the enclave finds this host.")] = None,
    relay: Annotated[str, typer.Option(help=f"Where clients connect: {Address.FORMS}.")] = "tcp://127.0.0.1:7001",
    kms_endpoint: Annotated[str | None, typer.Option(help="Another KMS than AWS's (see kms run).")] = None,
    s3_endpoint: Annotated[str | None, typer.Option(help="Another S3 than AWS's (see s3 run).")] = None,
    metrics: Annotated[
        str | None, typer.Option(help="Where Prometheus reads: tcp://HOST:PORT or unix:///path.")
    ] = None,
    kms_tunnel: Annotated[
        bool, typer.Option("--kms-tunnel", help="For an enclave with kms_roots: hand it credentials, carry its TLS.")
    ] = False,
    log_format: LogOption = LogFormat.TEXT,
) -> None:
    """Serve clients until stopped (Ctrl-C). An enclave that ends is started again.

    SIGUSR1 puts a new enclave, and whatever package is there now, in the place of the running one without a pause.

    Example: ephemeralml host run package --configuration enclave.json --root dev-root --kms-endpoint http://127.0.0.1:7002

    On AWS: ephemeralml host run package --platform nitro --eif enclave.eif --measurements measurements.json

    The same image here, in QEMU: ephemeralml host run package --platform vm --eif enclave.eif --memory 768
    """
    # Until there is an enclave to replace, and where others start it.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    from ephemeralml.cli.policy import read_measurements  # noqa: PLC0415
    from ephemeralml.host.nitro import SERVICES, NitroLauncher  # noqa: PLC0415
    from ephemeralml.host.run import HostPlan, run_host  # noqa: PLC0415
    from ephemeralml.host.sources import source_of  # noqa: PLC0415
    from ephemeralml.host.supervise import Restarts  # noqa: PLC0415

    if platform is Platform.VM:
        from ephemeralml.devcloud.vm import VmLauncher  # noqa: PLC0415

    match platform:
        case Platform.LOCAL if eif is not None or (configuration is None) == (connect is None):
            raise typer.BadParameter("give either --configuration (start an enclave) or --connect (use a running one)")
        case Platform.LOCAL if connect is not None and services is None:
            raise typer.BadParameter("--connect needs --services, the address that enclave was given as --host")
        case Platform.NITRO | Platform.VM if eif is None or configuration is not None:
            raise typer.BadParameter(f"--platform {platform} needs --eif, which has its configuration inside")
        case _ if metrics is not None and not metrics.startswith(("tcp://", "unix://")):
            raise typer.BadParameter(f"metrics are read at tcp:// or unix://, not {metrics}")
        case Platform.VM if cid is not None:
            raise typer.BadParameter("--platform vm gives its enclave a vsock of its own: no --cid")

    log = Log("host", log_format)
    open_source = partial(source_of, package, s3_endpoint=s3_endpoint)
    # What is not there, or cannot work, is the operator's mistake: said before anything starts.
    open_source().manifest()
    with tempfile.TemporaryDirectory(prefix="ephemeralml-") as folder:
        services_at = Address.parse(
            services or (SERVICES if platform is Platform.NITRO else f"unix://{folder}/host.sock")
        )
        enclave: Address | Launcher
        if configuration is not None:
            enclave = _local(configuration, root, Path(folder), services_at)
        elif eif is not None:
            expected = None if measurements is None else read_measurements(measurements)
            if platform is Platform.VM:
                enclave = VmLauncher(
                    eif=eif,
                    cpus=cpus,
                    memory=memory,
                    root=_made(root),
                    folder=Path(folder),
                    services=services_at,
                    debug=debug,
                    expected=expected,
                    address=None if connect is None else Address.parse(connect),
                    on_console=_console,
                )
            else:
                enclave = NitroLauncher(
                    eif=eif,
                    cpus=cpus,
                    memory=memory,
                    cid=cid,
                    debug=debug,
                    expected=expected,
                    services=services_at,
                    address=None if connect is None else Address.parse(connect),
                    on_console=_console,
                )
        else:
            assert connect is not None
            enclave = Address.parse(connect)
        plan = HostPlan(
            relay=Address.parse(relay),
            services=services_at,
            enclave=enclave,
            kms_endpoint=kms_endpoint,
            kms_tunnel=kms_tunnel,
            metrics=None if metrics is None else Address.parse(metrics),
            # Its processor is a program.
            restarts=Restarts(boot=900) if platform is Platform.VM else Restarts(),
        )
        asyncio.run(
            run_host(
                plan,
                open_source=open_source,
                on_ready=lambda address, stages: log.say("ready", relay=address, boot=stages),
                on_restart=lambda error, seconds: log.warn(
                    "enclave failed", reason=error, code=error.code, starting_again_in_seconds=seconds
                ),
                on_kept=lambda error: log.warn(
                    "enclave kept", reason=f"the one that was to take over failed: {error}", code=error.code
                ),
                on_closed=lambda relayed: log.say(
                    "connection closed", bytes_to_enclave=relayed.to_enclave, bytes_to_client=relayed.to_client
                ),
                on_metrics=partial(_measured, log),
            )
        )


def _local(configuration: Path, root: Path, folder: Path, services: Address) -> LocalLauncher:
    from ephemeralml.enclave.configuration import Configuration  # noqa: PLC0415
    from ephemeralml.host.launch import LocalLauncher  # noqa: PLC0415

    Configuration.load(configuration)
    start = [*(sys.executable, "-m", "ephemeralml.cli", "enclave", "run", str(configuration)), "--root", str(root)]
    return LocalLauncher(
        lambda listen: [*start, "--listen", str(listen), "--host", str(services)],
        folder=folder,
    )


def _made(root: Path) -> Path:
    from ephemeralml.cli.enclave import development_root  # noqa: PLC0415

    development_root(root)
    return root


def _console(line: str) -> None:
    # No line of this host's, and on standard error in either format: as a local enclave's, which is its own.
    print(f"enclave console: {line}", file=sys.stderr, flush=True)


def _measured(log: Log, address: Address) -> None:
    log.say("metrics", address=address)
    if not address.is_local:
        log.warn("metrics open", reason="whoever reaches that address can read them, and nothing is encrypted")

"""The enclave on the local platform: measure it, run it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from ephemeralml.cli.output import print_json
from ephemeralml.devcloud.root import DevelopmentRoot
from ephemeralml.errors import EphemeralMLError
from ephemeralml.session.transport import Address

app = typer.Typer(
    help="An enclave on this machine. Local platform: real protocol, not confidential.", no_args_is_help=True
)


@app.command()
def measure(
    configuration: Annotated[Path, typer.Argument(help="The enclave's configuration, JSON.")],
    *,
    bench: Annotated[bool, typer.Option("--bench", help="Of the benchmark's enclave: see run.")] = False,
) -> None:
    """Print the measurements of an enclave, as JSON. They are those of this code with this configuration.

    Example: ephemeralml enclave measure enclave.json > measurements.json
    """
    from ephemeralml.devcloud import measure as measuring  # noqa: PLC0415
    from ephemeralml.enclave.configuration import Configuration  # noqa: PLC0415

    image = measuring.build_image(program=measuring.BENCHMARK if bench else measuring.ENCLAVE)
    pcrs = measuring.measure(Configuration.load(configuration).to_bytes(), image=image)
    print_json({f"PCR{index}": value.hex() for index, value in pcrs.items()})


@app.command()
def run(
    configuration: Annotated[Path, typer.Argument(help="The enclave's configuration, JSON.")],
    *,
    listen: Annotated[str, typer.Option(help=f"Where the enclave listens: {Address.FORMS}.")],
    host: Annotated[str, typer.Option(help="Where the host's services listen.")],
    root: Annotated[Path, typer.Option(help="Folder of the development root; made when it does not exist.")],
    vsock: Annotated[Path | None, typer.Option(help="Carry both over a hybrid vsock with its host side here.")] = None,
    bench: Annotated[bool, typer.Option("--bench", help="One that measures itself and serves nobody.")] = False,
) -> None:
    """Run an enclave process under a software NSM. It goes on until it ends or is stopped.

    Example: ephemeralml enclave run enclave.json --listen unix:///tmp/e.sock --host unix:///tmp/h.sock --root dev-root

    With --vsock /tmp/v.sock --listen vsock://any:5000 --host vsock://2:5001 (as Firecracker would carry them), the host
    runs with --connect vsock+unix:///tmp/v.sock:5000 --services vsock+unix:///tmp/v.sock:5001

    The enclave of --bench has other measurements: a key that is to be released to it has to say so.
    """
    from ephemeralml.devcloud.hypervisor import LocalEnclave  # noqa: PLC0415
    from ephemeralml.devcloud.measure import BENCHMARK, ENCLAVE  # noqa: PLC0415

    with LocalEnclave(
        configuration=configuration,
        listen=Address.parse(listen),
        host=Address.parse(host),
        root=development_root(root),
        vsock=vsock,
        program=BENCHMARK if bench else ENCLAVE,
    ) as enclave:
        # A stop is a clean end: leave the block, which stops the enclave.
        signal.signal(signal.SIGTERM, stop)
        if status := enclave.wait():
            raise EphemeralMLError(f"the enclave ended with exit status {status}", code="enclave.ended")


def development_root(folder: Path) -> DevelopmentRoot:
    """The development root in `folder`, made on the spot when there is none."""
    if not (folder / "root.der").exists():
        root = DevelopmentRoot.create()
        root.save(folder)
        return root
    return DevelopmentRoot.load(folder)


def stop(*_: object) -> None:
    """A signal's handler: the command ends as if its work were done."""
    raise typer.Exit

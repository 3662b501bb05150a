"""`ephemeralml image enclave`: the whole image of an enclave, from its recipe and its owner's configuration."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ephemeralml.cli.output import AsJson, print_json
from ephemeralml.terminal import can_redraw

if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeralml.image.contents import Contents
    from ephemeralml.image.kernel import Kernel


def enclave(
    *,
    configuration: Annotated[Path, typer.Option(help="The enclave's configuration, JSON: it is measured.")],
    out: Annotated[Path, typer.Option(help="The image; replaced if it exists.")],
    kernel: Annotated[
        str, typer.Option(help="own (the recipe's), aws (as installed), or a bzImage; default: aws if installed.")
    ] = "",
    cmdline: Annotated[str, typer.Option(help="The command line of a kernel that you bring.")] = "",
    recipe: Annotated[Path, typer.Option(help="Folder of the lists of packages.")] = Path("deploy/image"),
    private_key: Annotated[Path | None, typer.Option(help="Key of the signing certificate, PEM.")] = None,
    signing_certificate: Annotated[Path | None, typer.Option(help="Sign the image: PCR8 will name this.")] = None,
    bench: Annotated[bool, typer.Option("--bench", help="One that measures itself and serves nobody.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write what is inside, each file with its hash: JSON.")] = None,
    sbom: Annotated[Path | None, typer.Option(help="Write a bill of materials: CycloneDX 1.6, JSON.")] = None,
    as_json: AsJson = False,
) -> None:
    """Build the enclave's image. Anyone with the same recipe, configuration and sources gets the same registers.

    The first time, the recipe's own kernel is compiled, which takes some minutes.

    Example: ephemeralml image enclave --configuration enclave.json --out enclave.eif --report enclave.report.json
    --sbom enclave.cdx.json
    """
    from rich.console import Console  # noqa: PLC0415

    from ephemeralml import image  # noqa: PLC0415
    from ephemeralml.devcloud.measure import BENCHMARK, ENCLAVE  # noqa: PLC0415
    from ephemeralml.enclave.configuration import Configuration  # noqa: PLC0415
    from ephemeralml.files import write_whole  # noqa: PLC0415
    from ephemeralml.image import contents  # noqa: PLC0415
    from ephemeralml.image.enclave import Recipe, build_enclave  # noqa: PLC0415
    from ephemeralml.image.sbom import kernel_release  # noqa: PLC0415
    from ephemeralml.image.sbom import sbom as bill  # noqa: PLC0415

    if (private_key is None) != (signing_certificate is None):
        raise typer.BadParameter("--private-key and --signing-certificate go together")
    measured = Configuration.load(configuration).to_json()
    # Quiet where nothing can be redrawn: FORCE_COLOR must not draw into a log.
    console = Console(stderr=True, force_terminal=can_redraw(sys.stderr))
    with tempfile.TemporaryDirectory(prefix="ephemeralml-") as work, console.status("reading the recipe") as status:
        used = _kernel(kernel, cmdline, recipe=recipe, on_progress=status.update)
        built = build_enclave(
            out,
            configuration=measured,
            recipe=Recipe.load(recipe),
            kernel=used,
            program=BENCHMARK if bench else ENCLAVE,
            metadata=image.Metadata(
                image_name="ephemeralml",
                image_version=version("ephemeralml"),
                build_tool_version=version("ephemeralml"),
                kernel_version=kernel_release(used.bzimage),
            ),
            signing_cert=signing_certificate,
            signing_key=private_key,
            work=Path(work),
            on_step=status.update,
        )
        if sbom is not None:
            bom = bill(
                pcrs=built.pcrs,
                packages=built.packages,
                libraries=built.wheels,
                sources=built.sources,
                kernel=built.kernel,
            )
            write_whole(sbom, _json(bom))
        if report is not None:
            size = out.stat().st_size
            write_whole(report, _json(contents.report(built.base, built.application, pcrs=built.pcrs, size=size)))
        ramdisks = {"base": built.base, "application": built.application, "total": (*built.base, *built.application)}
        counted = {name: contents.Contents.of(entries) for name, entries in ramdisks.items()}
    if as_json:
        ramdisks_of = {name: asdict(row) for name, row in counted.items()}
        about = {"image": str(out), "bytes": out.stat().st_size, "kernel": str(used.bzimage), "pcrs": built.pcrs}
        print_json({**about, "ramdisks": ramdisks_of})
        return
    _print_contents(counted)
    print(f"\nkernel  {used.bzimage}")
    print(f"wrote {out}: {out.stat().st_size:,} bytes")
    for name, value in built.pcrs.items():
        print(f"{name}  {value}")


def _kernel(choice: str, cmdline: str, *, recipe: Path, on_progress: Callable[[str], None]) -> Kernel:
    from ephemeralml.image.kernel import BLOBS, Kernel, installed_kernel, own_kernel  # noqa: PLC0415
    from ephemeralml.image.wheels import digest  # noqa: PLC0415

    bring = choice not in {"", "aws", "own"}
    if bring != bool(cmdline):
        raise typer.BadParameter("--cmdline goes with a kernel that you bring: --kernel bzImage")
    if bring:
        return Kernel(Path(choice), cmdline, digest(Path(choice)))
    installed = None if choice == "own" else installed_kernel()
    if choice == "aws" and installed is None:
        raise typer.BadParameter(f"AWS's kernel is not installed ({BLOBS}): the package aws-nitro-enclaves-cli-devel")
    return installed or own_kernel(recipe / "kernel", on_progress=on_progress)


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


def _print_contents(counted: dict[str, Contents]) -> None:
    print(f"{'ramdisk':12} {'files':>6} {'bytes':>12} {'executables':>12} {'shared objects':>15} {'modules':>8}")
    for name, row in counted.items():
        print(f"{name:12} {row.files:6,} {row.bytes:12,} {row.executables:12} {row.shared_objects:15} {row.modules:8,}")

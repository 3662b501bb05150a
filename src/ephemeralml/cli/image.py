"""Enclave images: build one, measure it, show what is inside, tell two apart."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from ephemeralml.cli.image_enclave import enclave
from ephemeralml.cli.output import AsJson, print_json
from ephemeralml.texts import printable

app = typer.Typer(help="Enclave images (EIF): build, measure, describe, compare.", no_args_is_help=True)
app.command()(enclave)


@app.command()
def build(
    *,
    kernel: Annotated[Path, typer.Option(help="The kernel, a bzImage.")],
    cmdline: Annotated[str, typer.Option(help="The kernel's command line itself.")],
    ramdisk: Annotated[list[Path], typer.Option(help="A cpio archive; once for each, in the order of the file.")],
    out: Annotated[Path, typer.Option(help="The image; replaced if it exists.")],
    name: Annotated[str | None, typer.Option(help="Name in the metadata; default: the kernel's file name.")] = None,
    version: Annotated[str, typer.Option(help="The image's version in the metadata.")] = "1.0",
    metadata: Annotated[Path | None, typer.Option(help="JSON to keep in the metadata, at most 4,096 bytes.")] = None,
    private_key: Annotated[Path | None, typer.Option(help="Key of the signing certificate, PEM.")] = None,
    signing_certificate: Annotated[Path | None, typer.Option(help="Sign the image: PCR8 will name this.")] = None,
    as_json: AsJson = False,
) -> None:
    """Build an image. The same inputs give the same file; its time is SOURCE_DATE_EPOCH's, or none.

    Example: ephemeralml image build --kernel bzImage --cmdline "console=ttyS0" --ramdisk init.cpio.gz --out app.eif
    """
    from importlib.metadata import version as installed  # noqa: PLC0415

    from ephemeralml import image  # noqa: PLC0415
    from ephemeralml.image.metadata import UNKNOWN, read_custom  # noqa: PLC0415

    if (private_key is None) != (signing_certificate is None):
        raise typer.BadParameter("--private-key and --signing-certificate go together")
    about = image.Metadata(
        image_name=kernel.name if name is None else name,
        image_version=version,
        build_time=_build_time() or UNKNOWN,
        build_tool_version=installed("ephemeralml"),
        custom=None if metadata is None else read_custom(metadata),
    )
    pcrs = image.build(
        out,
        kernel=kernel,
        cmdline=cmdline,
        ramdisks=ramdisk,
        metadata=about,
        signing_cert=signing_certificate,
        signing_key=private_key,
    )
    if as_json:
        print_json({"image": str(out), "pcrs": pcrs})
        return
    print(f"wrote {out}")
    _print_pcrs(pcrs)


@app.command()
def measure(
    image: Annotated[Path, typer.Argument(help="The image.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="As `policy create --measurements` reads it.")] = False,
) -> None:
    """Print the registers (PCRs) that an enclave of this image has. Its CRC and signature are checked first.

    Example: ephemeralml image measure app.eif --json > measurements.json
    """
    from ephemeralml.image import measure_eif  # noqa: PLC0415

    pcrs = measure_eif(image)
    if as_json:
        print_json(pcrs)
    else:
        _print_pcrs(pcrs)


@app.command()
def describe(
    image: Annotated[Path, typer.Argument(help="The image.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Show what is inside an image. Damaged and wrongly signed ones too; `image measure` refuses those.

    Example: ephemeralml image describe app.eif
    """
    from ephemeralml import image as images  # noqa: PLC0415

    content = images.describe(images.read(image), at=datetime.now(UTC))
    if as_json:
        print_json(content)
    else:
        _print_description(content)


@app.command()
def diff(
    left: Annotated[Path, typer.Argument(help="An image.")],
    right: Annotated[Path, typer.Argument(help="Another.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Show what differs between two images. Exit status 0 if nothing does, 1 if something, 2 for an error.

    Example: ephemeralml image diff ours.eif theirs.eif
    """
    from ephemeralml import image as images  # noqa: PLC0415
    from ephemeralml.cli import complain  # noqa: PLC0415
    from ephemeralml.errors import ImageError  # noqa: PLC0415

    read = []
    for path in (left, right):
        try:
            found = images.read(path)
            found.check()
        except (ImageError, OSError) as error:
            complain(ImageError(f"{path}: {error}", code=error.code) if isinstance(error, ImageError) else error)
            # 1 would say that they differ.
            raise typer.Exit(2) from None
        read.append(found)
    differences = images.diff(*read)
    if as_json:
        print_json({"equal": not differences, "differences": differences})
        raise typer.Exit(1 if differences else 0)
    for name, sides in differences.items():
        print(_shown(name))
        for path, side in zip((left, right), sides, strict=True):
            print(f"  {path}: {'missing' if side is None else printable(side)}")
    if differences:
        raise typer.Exit(1)
    print("equal")


def _build_time() -> str | None:
    """The time that SOURCE_DATE_EPOCH (reproducible-builds.org) sets, RFC 3339; never the clock's."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        return None
    try:
        return datetime.fromtimestamp(int(epoch), UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        raise typer.BadParameter("SOURCE_DATE_EPOCH must be whole seconds since 1970") from None


def _print_pcrs(pcrs: dict[str, str]) -> None:
    for name, value in pcrs.items():
        print(f"{name}  {value}")


def _print_description(content: dict[str, Any]) -> None:
    crc, signature = content["crc"], content["signature"]
    print(f"EIF version {content['version']} for {content['architecture']}")
    print(f"defaults   {content['default_memory']} bytes of memory, {content['default_cpus']} CPUs")
    print(f"CRC        {crc['stored']}, " + ("right" if crc["ok"] else f"WRONG: the file's is {crc['computed']}"))
    print(f"\n{'section':9}  {'offset':>12}  {'size':>12}  SHA-256")
    for item in content["sections"]:
        print(f"{item['type']:9}  {item['offset']:12}  {item['size']:12}  {item['sha256']}")
    print(f"\ncmdline    {_shown(content['cmdline'])}")
    print("metadata   " + "\n".join(map(printable, json.dumps(content["metadata"], indent=2).splitlines())))
    if signature is None:
        print("signature  none")
    else:
        print(f"signature  {'right' if signature['ok'] else 'WRONG: ' + printable(signature['problem'])}")
        print(f"  by       {_shown(signature['subject'])}, issued by {_shown(signature['issuer'])}")
        now = "valid" if signature["valid_now"] else "NOT valid: Nitro does not start this image"
        print(f"  valid    {signature['not_before']} to {signature['not_after']}, now {now}")
    print()
    _print_pcrs(content["measurements"])


def _shown(text: str) -> str:
    """Text out of an image, which must not command the terminal: as JSON has it, and JSON leaves DEL alone."""
    return printable(json.dumps(text)[1:-1])

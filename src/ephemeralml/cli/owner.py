"""The model owner's commands: make a signing key, pack a model, move a package under another key."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ephemeralml.cli.output import AsJson, print_json
from ephemeralml.cli.progress import progress_bar
from ephemeralml.errors import ConfigurationError, ModelError
from ephemeralml.package import FolderSource, generate_owner_key, load_owner_key, pack, read_model_spec, rewrap
from ephemeralml.package.model import CONFIG_FILES, check_model_folder

_MAX_CONFIG_BYTES = 4 * 1024 * 1024
_WEIGHTS = "model.safetensors"
_DIGEST_HEX = re.compile(r"[0-9a-fA-F]{64}")


class Precision(StrEnum):
    """What a package may be packed in."""

    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"


def keygen(
    path: Annotated[Path, typer.Argument(help="File for the private key; PATH.pub gets the public one.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Make the model owner's Ed25519 signing key.

    Example: ephemeralml keygen owner.key
    """
    key = generate_owner_key(path)
    public = key.public_key().public_bytes_raw().hex()
    if as_json:
        print_json({"private_key_file": str(path), "public_key_file": f"{path}.pub", "public_key": public})
        return
    print(f"private key  {path} (keep it offline)")
    print(f"public key   {public}  ({path}.pub)")
    print('next: put the public key into the enclave configuration: {"model_owner": "…", "model_id": "…"}')


def pack_model(
    folder: Annotated[Path, typer.Argument(help="A sentence-transformers folder (BERT family).")],
    out: Annotated[Path, typer.Argument(help="The package's folder; must not exist.")],
    *,
    key: Annotated[Path, typer.Option(help="The owner's private key, from keygen.")],
    version: Annotated[int, typer.Option(min=1, help="Rises with every release: older ones can be refused.")],
    kms_key: Annotated[str, typer.Option(help="ARN of the KMS key that guards the model.")],
    kms_endpoint: Annotated[str | None, typer.Option(help="Another KMS than AWS's (see kms run).")] = None,
    model_id: Annotated[str | None, typer.Option(help="Name in manifest and receipts; default: the folder's.")] = None,
    license_: Annotated[str, typer.Option("--license", help="The weights' license, an SPDX identifier.")] = "unknown",
    precision: Annotated[Precision, typer.Option(help="What the weights become, and what runs.")] = Precision.FP32,
    as_json: AsJson = False,
) -> None:
    """Encrypt and sign a model folder.

    Example: ephemeralml pack ./all-MiniLM-L6-v2 ./package --key owner.key --version 1 --kms-key arn:aws:kms:…
    """
    from ephemeralml.host.kms import KmsKeyProvider  # noqa: PLC0415 - boto3 takes a third of a second

    owner_key = load_owner_key(key)
    spec = read_model_spec(_configs(folder), precision=precision.value)
    replaced = {} if precision is Precision.FP32 else {_WEIGHTS: _converted(folder / _WEIGHTS, precision.value)}
    with progress_bar("encrypting") as progress:
        manifest = pack(
            folder,
            out,
            owner_key=owner_key,
            version=version,
            keys=KmsKeyProvider(kms_key, endpoint_url=kms_endpoint),
            spec=spec,
            model_id=model_id or folder.resolve().name,
            license=license_,
            progress=progress,
            replaced=replaced,
        )
    size = sum(artifact.ciphertext_size for artifact in manifest.artifacts)
    if as_json:
        print_json(
            {
                "model_id": manifest.model_id,
                "version": manifest.version,
                "precision": manifest.spec.precision,
                "model_digest": manifest.digest.hex(),
                "artifacts": len(manifest.artifacts),
                "encrypted_bytes": size,
            }
        )
        return
    print(f"packed {manifest.model_id} version {manifest.version}: {len(manifest.artifacts)} artifacts, {size:,} bytes")
    print(f"precision    {manifest.spec.precision}")
    print(f"model digest {manifest.digest.hex()}")


def rewrap_package(
    package: Annotated[Path, typer.Argument(help="The package as it is.")],
    out: Annotated[Path, typer.Argument(help="The new package's folder; must not exist.")],
    *,
    digest: Annotated[str, typer.Option("--from", metavar="DIGEST", help="Its model digest, as pack printed it.")],
    key: Annotated[Path, typer.Option(help="The owner's private key, the one the package is signed with.")],
    kms_key: Annotated[str, typer.Option(help="ARN of the KMS key that is to guard the model.")],
    version: Annotated[int | None, typer.Option(min=1, help="Above the package's; default: the next.")] = None,
    kms_endpoint: Annotated[str | None, typer.Option(help="Another KMS than AWS's (see kms run).")] = None,
    as_json: AsJson = False,
) -> None:
    """Put a package's data key under another KMS key. The weights are not encrypted again.

    Example: ephemeralml rewrap ./package ./package-2 --from 3f1c… --key owner.key --kms-key arn:aws:kms:…
    """
    from ephemeralml.host.kms import KmsKeyRewrapper  # noqa: PLC0415 - boto3 takes a third of a second

    if _DIGEST_HEX.fullmatch(digest) is None:
        raise ConfigurationError(
            "--from takes a model digest: the 64 hex digits that pack printed", code="package.digest"
        )
    old, new = rewrap(
        FolderSource(package),
        out,
        digest=bytes.fromhex(digest),
        owner_key=load_owner_key(key),
        keys=KmsKeyRewrapper(kms_key, endpoint_url=kms_endpoint),
        version=version,
    )
    if as_json:
        print_json(
            {
                "model_id": new.model_id,
                "version": new.version,
                "replaced_version": old.version,
                "kms_key": new.key.key_arn,
                "model_digest": new.digest.hex(),
            }
        )
        return
    print(f"rewrapped {new.model_id} version {old.version}, now version {new.version}, under {new.key.key_arn}")
    print(f"model digest {new.digest.hex()}")


def _configs(folder: Path) -> dict[str, bytes]:
    check_model_folder(folder)
    found = {}
    for name in CONFIG_FILES:
        path = folder / name
        if path.is_file() and path.stat().st_size <= _MAX_CONFIG_BYTES:
            found[name] = path.read_bytes()
    return found


def _converted(path: Path, precision: str) -> bytes:
    from ephemeralml.inference.convert import convert_weights  # noqa: PLC0415 - only here does packing need it

    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}", code="model.missing") from error
    return convert_weights(raw, precision=precision)

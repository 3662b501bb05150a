"""The two commands about key policies, `kms policy` and `kms check`."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ephemeralml.cli.output import AsJson, print_json
from ephemeralml.cli.policy import read_measurements
from ephemeralml.texts import printable

_MAX_BYTES = 64 * 1024
_ACCOUNT = re.compile(r"\d{12}", re.ASCII)

_Measurements = Annotated[
    list[Path], typer.Option(help="JSON from enclave measure or the image; once for each release.")
]


def policy(
    *,
    measurements: _Measurements,
    role: Annotated[list[str], typer.Option(help="ARN of a host's role; may be given again.")],
    admin: Annotated[str, typer.Option(help="ARN of who alone may change this policy: nobody who runs the host.")],
    owner: Annotated[str, typer.Option(help="ARN of who packs models; may be the admin.")],
    encryption_context: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE that every use must carry; may be given again.")
    ] = None,
) -> None:
    """Print a key policy for these enclaves alone, as JSON. It releases the model's key to no other.

    Example: ephemeralml kms policy --measurements pcrs.json --role arn:aws:iam::111122223333:role/host
    --admin arn:aws:iam::444455556666:role/key-admin --owner arn:aws:iam::444455556666:role/owner > key-policy.json
    """
    from ephemeralml.host.key_policy import key_policy  # noqa: PLC0415

    pairs = [pair.partition("=") for pair in encryption_context or []]
    if not all(name and separator for name, separator, _ in pairs):
        raise typer.BadParameter("--encryption-context is NAME=VALUE, as in ephemeralml:model=all-MiniLM-L6-v2")
    print(
        key_policy(
            measurements=[read_measurements(path) for path in measurements],
            roles=role,
            admin=admin,
            owner=owner,
            encryption_context={name: value for name, _, value in pairs},
        )
    )


def check(
    key_arn: Annotated[str | None, typer.Argument(help="A key: its live policy, grants and metadata are read.")] = None,
    *,
    measurements: _Measurements,
    file: Annotated[Path | None, typer.Option(help="Or a policy in a file.")] = None,
    account: Annotated[str | None, typer.Option(help="With --file: the key's account, 12 digits.")] = None,
    role: Annotated[
        list[str] | None, typer.Option(help="ARN of a host's role; nobody else may decrypt. May be given again.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="Another KMS than AWS's (see kms run).")] = None,
    as_json: AsJson = False,
) -> None:
    """Name every hole in a key's policy. Exit status 0 only when there is none.

    Example: ephemeralml kms check arn:aws:kms:… --measurements pcrs.json --role arn:aws:iam::111122223333:role/host
    """
    from ephemeralml.host.key_policy import check_key, check_policy  # noqa: PLC0415

    if (key_arn is None) == (file is None):
        raise typer.BadParameter("give either the key's ARN or --file")
    if (account is None) != (file is None):
        raise typer.BadParameter("--file goes with --account: a policy does not name the account of its key")
    if account is not None and _ACCOUNT.fullmatch(account) is None:
        raise typer.BadParameter("--account is 12 digits, as in the key's ARN")
    releases, roles = [read_measurements(path) for path in measurements], role or []
    if file is not None and account is not None:
        with file.open("rb") as stream:
            text = stream.read(_MAX_BYTES).decode(errors="replace")
        found = check_policy(text, measurements=releases, account=account, roles=roles)
    else:
        from ephemeralml.host.kms import key_region  # noqa: PLC0415 - boto3 takes a third of a second
        from ephemeralml.host.kms_keys import KmsKeys  # noqa: PLC0415

        assert key_arn is not None
        keys = KmsKeys(region=key_region(key_arn), endpoint_url=endpoint)
        found = check_key(keys, key_arn, measurements=releases, roles=roles)
    holes, notes = [item for item in found if item.hole], [item for item in found if not item.hole]
    if as_json:
        listed = {"holes": [asdict(item) for item in holes], "notes": [asdict(item) for item in notes]}
        print_json({"ok": not holes, **listed})
    else:
        for label, items in (("HOLE", holes), ("note", notes)):
            for item in items:
                print(f"{label}  {printable(item.where)}: {printable(item.message)} [{item.code}]")
        print(f"holes: {len(holes)}" if holes else "no hole found")
    if holes:
        raise typer.Exit(1)

"""Every command under its name."""

from __future__ import annotations

import typer

from ephemeralml.cli import bench, embed, enclave, host, inspect, kms, owner, policy, verify
from ephemeralml.cli.demo import demo

app = typer.Typer(
    name="ephemeralml",
    help="Confidential embeddings: sealed to an attested enclave, answered with a signed receipt.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(demo)
app.command("keygen")(owner.keygen)
app.command("pack")(owner.pack_model)
app.command("inspect")(inspect.inspect)
app.add_typer(policy.app, name="policy")
app.add_typer(enclave.app, name="enclave")
app.add_typer(host.app, name="host")
app.add_typer(kms.app, name="kms")
app.command("embed")(embed.embed)
app.command("verify")(verify.verify)
app.add_typer(bench.app, name="bench")

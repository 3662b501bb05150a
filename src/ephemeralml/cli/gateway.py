"""The gateway's command: serve it, and make keys for its callers."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from ephemeralml.attestation import Policy, Verdict
from ephemeralml.cli.logs import Log, LogFormat, LogOption
from ephemeralml.session.transport import Address

app = typer.Typer()


@app.callback(invoke_without_command=True)
def gateway(
    context: typer.Context,
    *,
    policy: Annotated[Path | None, typer.Option(help="What to trust: a policy's file. Needed to serve.")] = None,
    relay: Annotated[str, typer.Option(help="The host's relay.")] = "tcp://127.0.0.1:7001",
    listen: Annotated[
        str, typer.Option(help="Where programs connect: tcp://HOST:PORT or unix:///path.")
    ] = "tcp://127.0.0.1:7080",
    keys: Annotated[Path | None, typer.Option(help="Only with a key of this file (see gateway key).")] = None,
    receipts: Annotated[Path | None, typer.Option(help="SQLite file that keeps receipts; default: memory.")] = None,
    keep: Annotated[int, typer.Option(min=1, help="Receipts kept; the oldest are dropped.")] = 10_000,
    log_format: LogOption = LogFormat.TEXT,
) -> None:
    """Serve OpenAI's and TEI's embeddings from a verified enclave.

    It attests first, then serves /v1/embeddings, /v1/models, /embed and more until stopped (Ctrl-C). It holds
    plaintext: run it where the texts are, never on the enclave's host.

    Example: ephemeralml gateway --policy policy.json --relay tcp://127.0.0.1:7001 --receipts receipts.sqlite
    """
    if context.invoked_subcommand is not None:
        return
    if policy is None:
        raise typer.BadParameter("--policy is missing: without one nothing is trusted")
    from ephemeralml.cli.enclave import stop  # noqa: PLC0415
    from ephemeralml.gateway.server import Plan, run_gateway  # noqa: PLC0415

    plan = Plan(
        relay=relay,
        policy=Policy.load(policy),
        listen=Address.parse(listen),
        keys=keys,
        receipts=receipts,
        keep=keep,
    )
    log = Log("gateway", log_format)
    for line in _warnings(plan.listen, keyed=keys is not None):
        log.warn("open", reason=line)
    # uvicorn takes both for itself, and gives them back when all is answered.
    signal.signal(signal.SIGTERM, stop)
    run_gateway(
        plan,
        on_verified=lambda verdict: _verified(log, verdict, log_format),
        on_listening=lambda url: _serving(log, url, log_format),
    )


@app.command()
def key(
    keys: Annotated[Path, typer.Argument(help="The file of keys; made when it does not exist.")],
    *,
    name: Annotated[str, typer.Option(help="By which to find its line again.")] = "default",
) -> None:
    """Make an API key and print it, once. Its SHA-256 is added to the file, which a gateway reads when it starts.

    Example: ephemeralml gateway key gateway.keys --name notebook
    """
    from ephemeralml.gateway.keys import make_key  # noqa: PLC0415

    print(make_key(keys, name))


def _warnings(listen: Address, *, keyed: bool) -> list[str]:
    if listen.is_local:
        return []
    lines = [
        f"{listen} is not this machine's own: texts and vectors cross that network unencrypted, "
        "and whoever can read it can read them"
    ]
    if not keyed:
        lines.append("without --keys, whoever can reach it can use it")
    return lines


def _verified(log: Log, verdict: Verdict, form: LogFormat) -> None:
    if form is LogFormat.TEXT:
        print(verdict, file=sys.stderr, flush=True)
    else:
        log.say("verified", platform=verdict.platform, confidential=verdict.confidential, summary=verdict.summary)


def _serving(log: Log, url: str, form: LogFormat) -> None:
    if form is LogFormat.TEXT:
        # For whoever started it and waits.
        print(f"gateway: serving on {url}", flush=True)
    else:
        log.say("serving", url=url)

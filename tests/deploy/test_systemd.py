"""The unit files, as systemd and our own command line read them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from ephemeralml.cli.host import app
from ephemeralml.host import nitro, nitro_cli
from ephemeralml.session.transport import Address

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT = (FOLDER / "ephemeralml-host.service").read_text()


def settings(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)


def environment() -> dict[str, str]:
    lines = (FOLDER / "host.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def arguments() -> list[str]:
    """Of ExecStart, as systemd expands them."""
    [command] = settings("ExecStart")
    return [re.sub(r"\$\{(\w+)\}", lambda name: environment()[name[1]], word) for word in shlex.split(command)]


def test_the_command_line_takes_what_the_unit_gives() -> None:
    program, host, run, *options = arguments()
    assert (Path(program).name, host, run) == ("ephemeralml", "host", "run")
    given = typer.main.get_command(app).make_context("run", options).params
    assert (given["platform"], given["cpus"], given["memory"]) == ("nitro", 2, 1024)
    assert {str(given[name]) for name in ("package", "eif", "measurements")} <= set(environment().values())
    assert Address.parse(given["relay"]).port > 1023
    # Each setting is used, and each that is used is there.
    assert set(re.findall(r"\$\{(\w+)\}", UNIT)) == set(environment())


def test_what_is_set_aside_is_enough_for_what_is_asked() -> None:
    reserved = dict(re.findall(r"^(\w+): (\d+)$", (FOLDER / "allocator.yaml").read_text(), re.MULTILINE))
    assert int(reserved["memory_mib"]) >= int(environment()["MEMORY"])
    assert int(reserved["cpu_count"]) >= int(environment()["CPUS"])


def test_the_unit_outlives_the_hosts_own_stop() -> None:
    assert int(settings("TimeoutStopSec")[0]) > nitro._STOP_SECONDS + nitro_cli._SECONDS + nitro_cli._EXIT_SECONDS


@pytest.mark.parametrize("user", ["User", "Group"])
def test_the_user_is_the_one_that_is_made(user: str) -> None:
    assert f"u {settings(user)[0]} - " in (FOLDER / "ephemeralml.sysusers").read_text()


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not here")
    # What the unit starts and requires is not on this machine.
    unit = tmp_path / "ephemeralml-host.service"
    unit.write_text(UNIT.replace(arguments()[0], "/bin/true"))
    needed = tmp_path / "nitro-enclaves-allocator.service"
    needed.write_text("[Service]\nType=oneshot\nExecStart=/bin/true\n")
    checked = subprocess.run(
        [analyze, "verify", "--man=no", str(unit), str(needed)], capture_output=True, text=True, check=False
    )
    assert [line for line in checked.stderr.splitlines() if str(tmp_path) in line or "ephemeralml" in line] == []
    assert checked.returncode == 0, checked.stderr

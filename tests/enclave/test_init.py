"""The image's first process, in namespaces of its own: a machine readied, a process reaped, and the end of both.

That it does so in a real machine is shown in ``tests/vm``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest

from ephemeralml.enclave import init

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")

# What it says goes to a console that is not ours.
HARNESS = """
import os, sys
from ephemeralml.enclave import init
init.say = lambda what: os.write({pipe}, what.encode())
init.INTERPRETER = sys.executable
init._PROGRAM = {program!r}
{more}
init.main()
"""


def started(program: str, *, more: str = "init.beat = lambda: None") -> str:
    """What the first process, and the enclave's process it starts, write to one file."""
    with tempfile.TemporaryFile() as pipe:
        harness = HARNESS.format(pipe=pipe.fileno(), program=program.replace("PIPE", str(pipe.fileno())), more=more)
        # The file systems of this machine are out of the way, as in one that has just started.
        script = 'umount -lR /dev /sys && umount -lR /proc && exec "$@"'
        subprocess.run(
            ["unshare", "--fork", "--pid", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", harness],
            pass_fds=(pipe.fileno(),),
            capture_output=True,
            check=False,
            timeout=60,
        )
        pipe.seek(0)
        return pipe.read().decode()


@ROOT
def test_nothing_can_be_written_and_no_privilege_gained_by_the_enclave() -> None:
    program = """
import os
for path in ("/x", "/tmp/x", "/dev/x", "/sys/x", "/proc/x"):
    try:
        open(path, "w")
    except OSError:
        continue
    os.write(PIPE, path.encode())
status = open("/proc/self/status").read()
os.write(PIPE, b"privileges kept, " if "NoNewPrivs:\\t1" in status else b"no, ")
"""
    assert started(program) == "privileges kept, the enclave ended with status 0"


@ROOT
@pytest.mark.parametrize(
    ("program", "end"),
    [
        ("raise SystemExit(3)", "the enclave ended with status 3"),
        ("import os; os.kill(os.getpid(), 9)", "the enclave was killed by signal 9"),
        # An orphan that ends first is not the enclave.
        ("import os, time\nif os.fork() == 0:\n if os.fork(): os._exit(5)\n os._exit(6)\ntime.sleep(1)", "status 0"),
    ],
)
def test_the_machine_ends_with_the_enclave_and_says_how(program: str, end: str) -> None:
    assert started(program).endswith(end)


@ROOT
def test_nothing_runs_without_a_heartbeat() -> None:
    said = started("import os; os.write(PIPE, b'ran')", more="init._HEARTBEAT_AT = (1, 9000)")
    assert said.startswith("no heartbeat: ")
    assert "ran" not in said


@ROOT
def test_an_internal_error_says_nothing_of_itself() -> None:
    assert (
        started("", more="def beat(): raise ValueError('secret')\ninit.beat = beat") == "stopped by an internal error"
    )


def test_by_hand_it_does_nothing() -> None:
    ended = subprocess.run([sys.executable, str(init.__file__)], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("init: this is the first process")

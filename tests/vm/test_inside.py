"""A running enclave seen from inside. What looks is laid over the image in one more ramdisk: a release has none."""

from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import probe
import pytest
from vm_world import SECONDS, Built, VmWorld, machine_of, overlaid, ready

from ephemeralml.enclave import init
from ephemeralml.image import cpio
from ephemeralml.image.cpio import Entry
from ephemeralml.image.enclave import SHEBANG
from ephemeralml.session import hybrid

pytestmark = pytest.mark.vm

_HAND_OVER = "        reason = reap(start())\n"
_WITH_PROBE = """        enclave = start()
        os.posix_spawn(INTERPRETER, [INTERPRETER, FLAGS, "/probe.py"], ENVIRONMENT, setsid=True)
        reason = reap(enclave)
"""


@pytest.fixture(scope="module")
def probed(built: Built, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VmWorld]:
    """A deployment of the image with something inside that tells."""
    source = Path(init.__file__).read_text()
    assert source.count(_HAND_OVER) == 1
    ramdisk = io.BytesIO()
    cpio.write(
        ramdisk,
        [
            Entry.file("init", SHEBANG + source.replace(_HAND_OVER, _WITH_PROBE).encode(), executable=True),
            Entry.file("probe.py", Path(probe.__file__)),
        ],
    )
    folder = tmp_path_factory.mktemp("probed")
    with VmWorld(folder, overlaid(built, ramdisk.getvalue(), folder / "probed.eif"), tiny_model) as world:
        yield world


def _call(machine: int, port: int) -> bytes:
    """All that whoever listens at a port of the guest says. Raises ConnectionError when nobody does."""
    (path,) = {
        Path(word.split(b"path=")[1].decode()).parent / "vsock"
        for word in Path(f"/proc/{machine}/cmdline").read_bytes().split(b"\0")
        if word.startswith(b"socket,id=vsock,")
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(path))
        hybrid.call(connection, port, deadline=time.monotonic() + SECONDS)
        connection.settimeout(SECONDS)
        said = b""
        while part := connection.recv(65536):
            said += part
        return said


def test_inside_there_is_no_shell_nothing_to_write_and_one_who_listens(probed: VmWorld) -> None:
    with probed.host() as host, probed.client(host) as client:
        client.embed(["serving"])
        seen: dict[str, Any] = json.loads(_call(machine_of(host), probe.PORT))

    assert set(seen["programs"]) == {
        "/init",
        "/usr/bin/python3.13",
        "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    }
    assert seen["writable"] == {"root": [], "enclave": []}
    assert seen["listening"] == [5000, probe.PORT]
    running = {process["command"][-1]: process for process in seen["processes"].values() if process["command"]}
    enclave = running.pop("vsock://3:5001")
    assert running.keys() == {"/init", "/probe.py"}
    assert enclave["command"][0] == init.INTERPRETER
    assert (enclave["user"], enclave["capabilities"]) == (probe.NOBODY, 0)


def test_a_release_image_has_nothing_that_tells(vm: VmWorld) -> None:
    with vm.host() as host:
        ready(host)
        with pytest.raises(ConnectionError):
            _call(machine_of(host), probe.PORT)

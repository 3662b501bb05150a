"""The two devices under Linux's own drivers: another first process in place of the image's."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest
from vm_world import MEMORY, Built

from ephemeralml.cli.enclave import development_root
from ephemeralml.devcloud.vm import VmLauncher
from ephemeralml.image import Metadata, SectionKind, build, cpio, read
from ephemeralml.image.cpio import Entry
from ephemeralml.image.kernel import Kernel
from ephemeralml.image.layout import SECTION_HEADER_BYTES
from ephemeralml.session.transport import Address, listen, open_stream

pytestmark = pytest.mark.vm

SIZE = 10 << 20
SECONDS = 120
# Echoes one connection of the host's, then calls the host and echoes what that sends; each half-closed at its end.
GUEST = f"""#!/usr/bin/python3.13 -ISBu
import ctypes, socket, threading, os, time
libc = ctypes.CDLL(None)
libc.mount(b"devtmpfs", b"/dev", b"devtmpfs", 0, None)
os.dup2(os.open("/dev/console", os.O_RDWR), 1)
os.dup2(1, 2)

def echo(connection):
    data = bytearray()
    while piece := connection.recv(1 << 16):
        data += piece
    connection.sendall(data[::-1])
    connection.shutdown(socket.SHUT_WR)
    connection.recv(1)

def cross(connection):
    sender = threading.Thread(target=connection.sendall, args=(bytes({SIZE}),))
    sender.start()
    got = 0
    while got < {SIZE}:
        got += len(connection.recv(1 << 16))
    sender.join()
    connection.shutdown(socket.SHUT_WR)
    connection.recv(1)

try:
    listener = socket.socket(socket.AF_VSOCK)
    listener.bind((socket.VMADDR_CID_ANY, 5000))
    listener.listen()
    for cid in (2, 3):
        caller = socket.socket(socket.AF_VSOCK)
        caller.connect((cid, 5001))
        cross(caller)
        caller.close()
    connection, peer = listener.accept()
    assert peer[0] == 3, peer
    echo(connection)
except BaseException as error:
    print("guest:", repr(error))
time.sleep(0.5)
libc.reboot(0x01234567)
"""


def test_ten_megabytes_each_way_at_once_and_back_through_linux_own_drivers(
    built: Built, kernel: Kernel, tmp_path: Path
) -> None:
    image, data = read(built.eif), built.eif.read_bytes()
    base = next(section for section in image.sections if section.kind is SectionKind.RAMDISK)
    with (tmp_path / "init.cpio").open("wb") as file:
        cpio.write(file, [Entry.file("init", GUEST.encode(), executable=True)])
    build(
        tmp_path / "devices.eif",
        kernel=kernel.bzimage,
        cmdline=kernel.cmdline,
        ramdisks=[data[base.offset + SECTION_HEADER_BYTES :][: base.size], tmp_path / "init.cpio"],
        metadata=Metadata(image_name="x", image_version="1", build_tool_version="1", kernel_version="1"),
    )
    development_root(tmp_path / "root")
    asyncio.run(asyncio.wait_for(_converse(tmp_path), SECONDS))


async def _converse(folder: Path) -> None:
    crossed: asyncio.Queue[int] = asyncio.Queue()

    async def service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def send() -> None:
            writer.write(bytes(SIZE))
            await writer.drain()

        data, _ = await asyncio.gather(reader.read(-1), send())
        crossed.put_nowait(len(data))
        writer.close()

    services = Address("unix", path=str(folder / "host"))
    listener, _ = await listen(services, service)
    said: list[str] = []
    machine = await VmLauncher(
        eif=folder / "devices.eif",
        cpus=2,
        memory=MEMORY,
        root=folder / "root",
        folder=folder,
        services=services,
        on_console=said.append,
        debug=True,
    ).start()
    try:
        # By either of its CIDs.
        assert [await crossed.get(), await crossed.get()] == [SIZE, SIZE], said
        reader, writer = await open_stream(machine.address)
        message = os.urandom(SIZE)
        writer.write(message)
        writer.write_eof()
        answer = await reader.read(-1)
        assert hashlib.sha256(answer).digest() == hashlib.sha256(message[::-1]).digest(), said
        writer.close()
        await machine.wait()
        assert not [line for line in said if line.startswith("guest:")]
    finally:
        await machine.stop()
        listener.close()

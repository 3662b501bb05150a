"""AWS's `nitro-cli` as a child process: its commands, its JSON answers, its errors with what to do about them.

Behaviour as in aws-nitro-enclaves-cli 1.2 to 1.5. Everything here raises `NitroCliError`, or `ConfigurationError` when
there is no such program.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from ephemeralml import strict_json
from ephemeralml.errors import ConfigurationError
from ephemeralml.host.launch import EnclaveFailedError

PROGRAM: Final = "nitro-cli"
# vsock(7) gives 0 to 2 to hypervisor and host, and 3 is the parent instance's; the highest is for "any".
LEAST_CID: Final = 4
MOST_CID: Final = 2**32 - 2

# An answer about one enclave is 1 to 3 KB, and an instance has four enclaves at most.
_ANSWER_BYTES: Final = 256 * 1024
_READ_BYTES: Final = 64 * 1024
_SECONDS: Final = 30
# nitro-cli itself gives an enclave two minutes to say that it boots, after its memory was set up.
_RUN_SECONDS: Final = 240
_EXIT_SECONDS: Final = 5
_LINE_CHARACTERS: Final = 300

_ENCLAVE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,127}", re.ASCII)
_PCR: Final = re.compile(r"[0-9a-f]{96}", re.ASCII)
_ERROR_CODE: Final = re.compile(rb"\[ (E[0-9]{2}) \]")

_ALLOCATOR: Final = "/etc/nitro_enclaves/allocator.yaml and restart nitro-enclaves-allocator.service"
# Our code, what to do, and whether another try may do better. The codes: nitro-cli's src/common/document_errors.rs.
_ARGUMENT = ("argument", "this nitro-cli does not take what it was given; install 1.2 or later", False)
_FILE = (
    "file",
    "a file it needs cannot be opened: check the EIF's path, that this user is in the group ne, and that "
    "/dev/nitro_enclaves is there (the instance must be started with enclaves enabled)",
    False,
)
_CPU = ("cpu", f"the CPU pool has not that many free: raise cpu_count in {_ALLOCATOR}, or ask for fewer", False)
_MEMORY = ("memory", f"too little memory is set aside or free: raise memory_mib in {_ALLOCATOR}", False)
_IMAGE = ("image", "the EIF is damaged, or signed with a certificate that does not verify; build it again", False)
_DRIVER = ("driver", "the Nitro Enclaves driver refused; its reason is in the kernel's log and nitro-cli's", True)
_BOOT = ("boot", "the image did not say that it boots; start it with --debug to see its console", True)
_GONE = ("gone", "the enclave, or nitro-cli's process that holds it, is not there any more", True)
_INTERNAL = ("internal", "its log is in /var/log/nitro_enclaves", True)
_ERRORS: Final = {
    **dict.fromkeys(("E01", "E02", "E03", "E58"), _ARGUMENT),
    **dict.fromkeys(("E07", "E18", "E19", "E51", "E52", "E56"), _FILE),
    **dict.fromkeys(("E20", "E21", "E22", "E23", "E24"), _CPU),
    "E26": ("memory_requested", "an enclave needs four times its EIF's size: give more --memory", False),
    **dict.fromkeys(("E25", "E27", "E31", "E42"), _MEMORY),
    **dict.fromkeys(("E28", "E29", "E30", "E32", "E33"), _DRIVER),
    **dict.fromkeys(("E34", "E35", "E59"), _IMAGE),
    "E36": _BOOT,
    **dict.fromkeys(("E08", "E11", "E38", "E39", "E40"), _GONE),
}


class NitroCliError(EnclaveFailedError):
    """nitro-cli failed, was silent, or said what it never says; the code is ``nitro.`` and one word."""


@dataclass(frozen=True, slots=True)
class Started:
    """What `run-enclave` answers. `process` is the one that holds the enclave: it ends when the enclave does."""

    identity: str
    name: str
    cid: int
    process: int


@dataclass(frozen=True, slots=True)
class Described:
    """What `describe-enclaves` answers about one; `pcrs` are what nitro-cli computed from the file it was given."""

    identity: str
    name: str
    process: int
    state: str
    flags: str
    pcrs: dict[int, str]


async def run(*, eif: Path, cpus: int, memory: int, cid: int | None, name: str, debug: bool) -> Started:
    """Start an enclave with `memory` MiB; returns once its kernel runs."""
    options = ["--eif-path", str(eif), "--cpu-count", str(cpus), "--memory", str(memory), "--enclave-name", name]
    options += [] if cid is None else ["--enclave-cid", str(cid)]
    options += ["--debug-mode"] if debug else []
    answer = _object(await _call("run-enclave", *options, seconds=_RUN_SECONDS))
    return Started(_identity(answer), _text(answer, "EnclaveName"), _cid(answer), _process(answer))


async def describe() -> list[Described]:
    """Every enclave on this instance, those of others too."""
    answer = await _call("describe-enclaves")
    if not isinstance(answer, list):
        _malformed("a list is needed")
    return [
        Described(
            _identity(item),
            # Enclaves of a nitro-cli before 1.2 have no name.
            _text(item, "EnclaveName") if "EnclaveName" in item else "",
            _process(item),
            _text(item, "State"),
            _text(item, "Flags"),
            _pcrs(item),
        )
        for item in map(_object, answer)
    ]


async def terminate(identity: str) -> None:
    """End an enclave; it is gone when this returns."""
    answer = _object(await _call("terminate-enclave", "--enclave-id", identity))
    if answer.get("Terminated") is not True or _identity(answer) != identity:
        _malformed("it does not say that the enclave is terminated")


async def console(identity: str) -> asyncio.subprocess.Process:
    """A process whose standard output is the enclave's console, until either ends; debug mode only."""
    return await _spawn("console", "--enclave-id", identity, stderr=asyncio.subprocess.DEVNULL)


async def end(process: asyncio.subprocess.Process) -> None:
    """Kill nitro-cli, if it still runs, when nobody reads what it says any more."""
    _kill(process)
    # Somebody else may hold its pipes.
    with suppress(TimeoutError):
        async with asyncio.timeout(_EXIT_SECONDS):
            for stream in (process.stdout, process.stderr):
                # A pipe whose end was not seen stays open.
                while stream is not None and await stream.read(_READ_BYTES):
                    pass
            await process.wait()


async def _call(command: str, *options: str, seconds: float = _SECONDS) -> object:
    process = await _spawn(command, *options, stderr=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(seconds):
            answer, errors = await asyncio.gather(_read(process, process.stdout), _read(process, process.stderr))
            status = await process.wait()
    except TimeoutError:
        raise NitroCliError(
            f"{PROGRAM} {command} did not end in {seconds:g} s; is the instance short of CPU, or its driver stuck?",
            code="nitro.silent",
            passing=True,
        ) from None
    finally:
        await end(process)
    if len(answer) > _ANSWER_BYTES or len(errors) > _ANSWER_BYTES:
        _malformed(f"more than {_ANSWER_BYTES} bytes")
    if status:
        raise _failure(command, status, errors)
    return _parse(answer)


async def _spawn(command: str, *options: str, stderr: int) -> asyncio.subprocess.Process:
    try:
        # Its own process group: a Ctrl-C at the terminal must not end it in the middle of a start.
        return await asyncio.create_subprocess_exec(
            PROGRAM,
            command,
            *options,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
    except OSError as error:
        raise ConfigurationError(
            f"cannot start {PROGRAM}: {error.strerror}; install aws-nitro-enclaves-cli, and have it on PATH",
            code="nitro.program",
        ) from error


async def _read(process: asyncio.subprocess.Process, stream: asyncio.StreamReader | None) -> bytes:
    """All that it says; one that says too much is killed."""
    assert stream is not None
    data = bytearray()
    while chunk := await stream.read(_READ_BYTES):
        if len(data) > _ANSWER_BYTES:
            _kill(process)
        else:
            data += chunk
    return bytes(data)


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()


def _failure(command: str, status: int, errors: bytes) -> NitroCliError:
    # When a start fails, the cause comes first and E39 after it: the process that held the enclave has ended.
    found = _ERROR_CODE.search(errors)
    name = found[1].decode() if found else f"exit status {status}"
    # The status of an option that it does not know.
    code, advice, passing = _ERRORS.get(name, _ARGUMENT if found is None and status == 2 else _INTERNAL)
    said = printable(errors[found.end() if found else 0 :].strip().partition(b"\n")[0])
    return NitroCliError(
        f"{PROGRAM} {command} failed ({name}): {advice}; it says: {said}", code=f"nitro.{code}", passing=passing
    )


def printable(line: bytes) -> str:
    """A line of somebody else's for a log of ours: 300 characters of it, and nothing that a terminal obeys."""
    return "".join(filter(str.isprintable, line.decode(errors="replace")))[:_LINE_CHARACTERS]


# Answers. Each field that is used is checked; others come and go with versions.


def _malformed(why: str) -> NoReturn:
    raise NitroCliError(
        f"{PROGRAM} answered what it never does: {why}; is it AWS's, 1.2 or later?", code="nitro.answer", passing=False
    )


def _parse(answer: bytes) -> object:
    try:
        return strict_json.loads(answer)
    except (ValueError, RecursionError):
        _malformed("no JSON, or a key in it twice")


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        _malformed("an object is needed")
    return value


def _text(answer: dict[str, Any], key: str) -> str:
    value = answer.get(key)
    if not isinstance(value, str) or not value.isprintable() or len(value) > _LINE_CHARACTERS:
        _malformed(f"{key} must be a short text")
    return value


def _identity(answer: dict[str, Any]) -> str:
    value = _text(answer, "EnclaveID")
    # It becomes an argument: nothing that could be an option.
    if not _ENCLAVE_ID.fullmatch(value):
        _malformed("EnclaveID is none")
    return value


def _number(answer: dict[str, Any], key: str, least: int, most: int) -> int:
    value = answer.get(key)
    if type(value) is not int or not least <= value <= most:
        _malformed(f"{key} must be a number from {least} to {most}")
    return value


def _process(answer: dict[str, Any]) -> int:
    return _number(answer, "ProcessID", 2, 2**31 - 1)


def _cid(answer: dict[str, Any]) -> int:
    return _number(answer, "EnclaveCID", LEAST_CID, MOST_CID)


def _pcrs(answer: dict[str, Any]) -> dict[int, str]:
    values = _object(answer.get("Measurements"))
    pcrs = {index: values[f"PCR{index}"] for index in (0, 1, 2, 8) if f"PCR{index}" in values}
    if not {0, 1, 2} <= set(pcrs) or not all(isinstance(pcr, str) and _PCR.fullmatch(pcr) for pcr in pcrs.values()):
        _malformed("Measurements must have PCR0, PCR1 and PCR2, 96 hex digits each")
    return pcrs

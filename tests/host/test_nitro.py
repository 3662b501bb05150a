"""Starting an enclave through nitro-cli: compared with what was asked for, watched, never left behind."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nitro import PCRS, Instance, until

from ephemeralml.attestation import Measurements
from ephemeralml.errors import ConfigurationError, EphemeralMLError
from ephemeralml.host import nitro, nitro_cli
from ephemeralml.host.launch import EnclaveFailedError, RunningEnclave
from ephemeralml.host.nitro import Lines, NitroLauncher, WrongEnclaveError
from ephemeralml.session.transport import Address

EXPECTED = Measurements(pcr0=PCRS["PCR0"], pcr1=PCRS["PCR1"], pcr2=PCRS["PCR2"])


def launcher(instance: Instance, eif: Path | None = None, **changed: Any) -> NitroLauncher:
    made = NitroLauncher(
        eif=eif or instance.image("sleep", 600),
        cpus=2,
        memory=512,
        services=Address.parse(f"unix://{instance.folder}/services"),
        address=Address.parse(f"unix://{instance.folder}/enclave"),
        on_console=lambda _: None,
    )
    return replace(made, **changed)


def running(launcher: NitroLauncher, test: Callable[[RunningEnclave], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            enclave = await launcher.start()
            try:
                await test(enclave)
            finally:
                await enclave.stop()

    asyncio.run(main())


def refused(launcher: NitroLauncher) -> EphemeralMLError:
    with pytest.raises(EphemeralMLError) as caught:
        asyncio.run(launcher.start())
    return caught.value


def test_an_enclave_runs_until_it_is_stopped(instance: Instance) -> None:
    async def test(enclave: RunningEnclave) -> None:
        [info] = instance.enclaves()
        assert info["EnclaveName"] == f"ephemeralml unix://{instance.folder}/services"
        assert (info["NumberOfCPUs"], info["MemoryMiB"]) == (2, 512)
        assert enclave.address == Address.parse(f"unix://{instance.folder}/enclave")
        waiting = asyncio.ensure_future(enclave.wait())
        await asyncio.sleep(0.2)
        assert not waiting.done()
        waiting.cancel()

    running(launcher(instance, expected=EXPECTED), test)
    assert instance.enclaves() == []
    # Watched without asking nitro-cli again and again, which writes a log each time.
    assert len(instance.calls("describe-enclaves")) == 2


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_an_enclave_is_noticed(instance: Instance, how: signal.Signals) -> None:
    async def test(enclave: RunningEnclave) -> None:
        os.kill(instance.enclaves()[0]["ProcessID"], how)
        ended = await enclave.wait()
        assert (ended.code, ended.passing) == ("enclave.ended", True)

    running(launcher(instance), test)
    # One that is gone is not terminated again.
    assert instance.calls("terminate-enclave") == []


def test_without_an_address_it_is_at_its_cid(instance: Instance) -> None:
    try:
        Address.parse("vsock://77:5000")
    except ConfigurationError:
        pytest.skip("this tree's transports have no vsock yet")

    async def test(enclave: RunningEnclave) -> None:
        assert str(enclave.address) == "vsock://77:5000"

    running(launcher(instance, address=None, cid=77), test)
    Address.parse(nitro.SERVICES)


# What runs must be what was asked for.


@pytest.mark.parametrize("index", [0, 1, 2])
def test_another_image_is_terminated_and_both_measurements_said(instance: Instance, index: int) -> None:
    other = "ab" * 48
    image = instance.image("sleep", 600, pcrs=PCRS | {f"PCR{index}": other})
    error = refused(launcher(instance, image, expected=EXPECTED))
    assert isinstance(error, WrongEnclaveError)
    assert (error.code, error.passing) == ("nitro.measurements", False)
    assert f"its PCR{index} is {other}, expected {PCRS[f'PCR{index}']}" in str(error)
    assert instance.enclaves() == []


def test_an_image_without_the_signature_that_was_expected(instance: Instance) -> None:
    signed = Measurements(pcr0=PCRS["PCR0"], pcr1=PCRS["PCR1"], pcr2=PCRS["PCR2"], pcr8="cd" * 48)
    error = refused(launcher(instance, expected=signed))
    assert "PCR8 is absent" in str(error)
    image = instance.image("sleep", 600, pcrs=PCRS | {"PCR8": "cd" * 48})
    asyncio.run(_started_and_stopped(launcher(instance, image, expected=signed)))


async def _started_and_stopped(launcher: NitroLauncher) -> None:
    await (await launcher.start()).stop()


def test_registers_of_the_instance_are_left_to_attestation(instance: Instance) -> None:
    pcrs = {f"pcr{index}": PCRS[f"PCR{index}"] for index in range(3)}
    pinned = Measurements(**pcrs, pcr3="cd" * 48, pcr4="ef" * 48)
    asyncio.run(_started_and_stopped(launcher(instance, expected=pinned)))


@pytest.mark.parametrize(("debug", "flags"), [(False, "DEBUG_MODE"), (True, "NONE"), (False, "SOMETHING_NEW")])
def test_debug_mode_is_as_asked_for(instance: Instance, flags: str, *, debug: bool) -> None:
    instance.script(run_enclave=[{"flags": flags}])
    error = refused(launcher(instance, debug=debug))
    assert isinstance(error, WrongEnclaveError)
    assert error.code == "nitro.flags"
    assert flags in str(error)
    assert instance.enclaves() == []


@pytest.mark.parametrize("state", ["TERMINATING", "EMPTY", "running"])
def test_an_enclave_that_does_not_run_is_none(instance: Instance, state: str) -> None:
    instance.script(run_enclave=[{"state": state}])
    error = refused(launcher(instance))
    assert isinstance(error, EnclaveFailedError)
    assert (error.code, error.passing) == ("nitro.gone", True)
    assert instance.enclaves() == []


def test_an_enclave_that_ends_at_once(instance: Instance) -> None:
    error = refused(launcher(instance, instance.image("true")))
    assert isinstance(error, EnclaveFailedError)
    assert error.code in {"nitro.gone", "enclave.ended"}
    assert error.passing


def test_too_little_memory_is_said_before_anything_starts(instance: Instance) -> None:
    eif = instance.folder / "large.eif"
    with eif.open("wb") as file:
        file.truncate((128 << 20) + 1)
    error = refused(launcher(instance, eif))
    assert isinstance(error, ConfigurationError)
    assert error.code == "nitro.memory_requested"
    assert "--memory 513 " in str(error)
    assert instance.calls("run-enclave") == []


def test_no_image(instance: Instance) -> None:
    error = refused(launcher(instance, instance.folder / "no.eif"))
    assert isinstance(error, ConfigurationError)
    assert str(instance.folder / "no.eif") in str(error)


# Nothing stays behind, and nothing of others is touched.


def start_of_another(instance: Instance, name: str) -> nitro_cli.Started:
    eif = instance.image("sleep", 600)
    return asyncio.run(nitro_cli.run(eif=eif, cpus=2, memory=512, cid=None, name=name, debug=False))


def test_a_leftover_is_terminated_and_others_are_not(instance: Instance, caplog: pytest.LogCaptureFixture) -> None:
    mine = launcher(instance)
    left = start_of_another(instance, mine.name)
    others = [start_of_another(instance, name) for name in (f"{mine.name}_1", "ephemeralml", mine.name.upper())]

    async def test(_: RunningEnclave) -> None:
        names = {info["EnclaveID"]: info["EnclaveName"] for info in instance.enclaves()}
        assert left.identity not in names
        assert list(names.values()).count(mine.name) == 1
        assert all(other.identity in names for other in others)

    with caplog.at_level(logging.WARNING):
        running(mine, test)
    assert left.identity in caplog.text
    assert {info["EnclaveID"] for info in instance.enclaves()} == {other.identity for other in others}
    assert all(call[:1] == ["--enclave-id"] for call in instance.calls("terminate-enclave"))


def test_a_leftover_that_does_not_go_stops_the_start(instance: Instance) -> None:
    mine = launcher(instance)
    start_of_another(instance, mine.name)
    instance.script(terminate_enclave=[{"error": "E39"}])
    assert refused(mine).code == "nitro.gone"
    assert len(instance.calls("run-enclave")) == 1


def test_a_name_that_was_taken_meanwhile(instance: Instance) -> None:
    mine = launcher(instance)
    start_of_another(instance, mine.name)
    # As if it had come after the look: nitro-cli then adds a number to the name.
    instance.script(describe_enclaves=[{"answer": "[]"}])
    assert refused(mine).code == "nitro.gone"
    assert [info["EnclaveName"] for info in instance.enclaves()] == [mine.name]


def stop_during(instance: Instance, step: str, **steps: list[dict[str, Any]]) -> None:
    instance.script(**steps)

    async def main() -> None:
        starting = asyncio.ensure_future(launcher(instance).start())
        while not instance.calls(step):
            await asyncio.sleep(0.01)
        starting.cancel()
        await asyncio.wait({starting})
        assert starting.cancelled()

    asyncio.run(main())


def test_a_stop_before_a_start_leaves_nothing(instance: Instance) -> None:
    stop_during(instance, "describe-enclaves", describe_enclaves=[{"hang": 600}])
    assert instance.calls("run-enclave") == []


def test_a_stop_in_the_middle_of_a_start_leaves_nothing(instance: Instance) -> None:
    stop_during(instance, "run-enclave", run_enclave=[{"seconds": 0.5}])
    # Long enough for an enclave whose start nobody waited for.
    time.sleep(1)
    assert instance.enclaves() == []
    assert len(instance.calls("terminate-enclave")) == 1


def test_a_stop_while_an_enclave_is_looked_at_leaves_nothing(instance: Instance) -> None:
    stop_during(instance, "run-enclave", describe_enclaves=[{}, {"hang": 600}], run_enclave=[{"seconds": 0.5}])
    assert instance.enclaves() == []


def test_a_start_that_outlasts_the_stop_is_given_up_and_ended_by_the_next(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nitro, "_STOP_SECONDS", 0.2)
    stop_during(instance, "run-enclave", run_enclave=[{"seconds": 1}])
    until(instance.enclaves)
    asyncio.run(_started_and_stopped(launcher(instance)))
    assert instance.enclaves() == []


def test_an_enclave_that_cannot_be_terminated_is_said(instance: Instance, caplog: pytest.LogCaptureFixture) -> None:
    async def test(_: RunningEnclave) -> None:
        instance.script(terminate_enclave=[{"error": "E29"}])

    running(launcher(instance), test)
    assert "may be left" in caplog.text
    [left] = instance.enclaves()

    async def again(_: RunningEnclave) -> None:
        assert left["EnclaveID"] not in {info["EnclaveID"] for info in instance.enclaves()}

    running(launcher(instance), again)


# The console.


def test_the_console_is_shown_in_debug_mode_only(instance: Instance) -> None:
    lines: list[str] = []
    console = "\x1b[2J\x1b]0;owned\x07booting\r\n" + "x" * 10_000 + "\n\x00\n\u202ebackwards\nlast"
    image = instance.image("sh", "-c", "echo; echo up; exec sleep 600", console=console)

    async def test(_: RunningEnclave) -> None:
        while "up" not in lines:
            await asyncio.sleep(0.01)

    running(launcher(instance, image, debug=True, on_console=lines.append), test)
    assert lines[2:] == ["[2J]0;ownedbooting", "x" * 300, "backwards", "last", "up"]
    lines.clear()

    async def quiet(_: RunningEnclave) -> None:
        await asyncio.sleep(0.2)

    running(launcher(instance, image, on_console=lines.append), quiet)
    assert lines == []
    assert len(instance.calls("console")) == 1


def test_a_console_that_fails_is_no_end(instance: Instance) -> None:
    instance.script(console=[{"error": "E44"}])

    async def test(enclave: RunningEnclave) -> None:
        waiting = asyncio.ensure_future(enclave.wait())
        await asyncio.sleep(0.3)
        assert not waiting.done()
        waiting.cancel()

    running(launcher(instance, debug=True), test)


@given(st.lists(st.binary(max_size=400), max_size=30))
def test_lines_do_not_depend_on_how_they_arrive(chunks: list[bytes]) -> None:
    lines, whole = Lines(), Lines()
    shown = [line for chunk in chunks for line in lines.feed(chunk)]
    for line in shown:
        assert line.isprintable()
        assert 0 < len(line) <= 300
    assert shown == [line for byte in b"".join(chunks) for line in whole.feed(bytes([byte]))]


def test_a_line_without_an_end_is_not_kept() -> None:
    lines = Lines()
    for _ in range(1000):
        assert lines.feed(b"x" * 4096) == []
    assert len(lines._rest) <= 4096
    assert lines.feed(b"\n") == ["x" * 300]

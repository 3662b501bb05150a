"""Bringing an enclave back: when it is tried again, when not, and what clients hear meanwhile."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest

from ephemeralml.errors import ConfigurationError, EphemeralMLError
from ephemeralml.host.health import Health
from ephemeralml.host.launch import EnclaveFailedError, RunningEnclave
from ephemeralml.host.relay import Relay
from ephemeralml.host.supervise import Restarts, Supervisor
from ephemeralml.session.frames import HEADER, FrameType
from ephemeralml.session.messages import Notice
from ephemeralml.session.transport import Address, listen, open_stream, serve

QUICK = Restarts(boot=30, first_pause=0.001, longest_pause=0.004, attempts=4, steady=30)
ENDED = EnclaveFailedError("it ended", code="enclave.ended", passing=True)
DENIED = ("failed", "kms.access_denied", "denied")


class Enclave:
    def __init__(self, address: Address) -> None:
        self.address = address
        self.ended: asyncio.Future[EnclaveFailedError] = asyncio.get_running_loop().create_future()
        self.stopped = False

    async def wait(self) -> EnclaveFailedError:
        return await asyncio.shield(self.ended)

    async def stop(self) -> None:
        self.stopped = True


Life = Callable[["World", Enclave], Awaitable[None]]


def given(relay: Relay, ready: list[str]) -> Supervisor:
    """The supervisor of an enclave that others start."""

    async def nothing() -> None:
        raise AssertionError("nothing is started")

    return Supervisor(
        None,
        relay=relay,
        restarts=QUICK,
        before_start=nothing,
        on_ready=ready.append,
        on_restart=lambda *_: None,
        on_kept=lambda _: None,
    )


class World:
    """A launcher whose enclaves live the given lives, one after the other, and the supervisor of it."""

    def __init__(self, folder: Path, lives: list[Life | EphemeralMLError], restarts: Restarts) -> None:
        self._lives = lives
        self.address = Address("unix", path=f"{folder}/enclave")
        self.relay = Relay(None, on_closed=lambda _: None)
        self.ready: list[str] = []
        self.restarts: list[tuple[str, float]] = []
        self.enclaves: list[Enclave] = []
        self.tasks: list[asyncio.Future[None]] = []
        self.kept: list[str] = []
        self.supervisor = Supervisor(
            self,
            relay=self.relay,
            restarts=restarts,
            before_start=self.prepare,
            on_ready=self.ready.append,
            on_restart=lambda error, seconds: self.restarts.append((error.code, seconds)),
            on_kept=lambda error: self.kept.append(error.code),
        )
        self.prepared = 0
        self.beside = 0

    async def prepare(self) -> None:
        self.prepared += 1

    async def start(self) -> RunningEnclave:
        # Never more than one beside the one that serves.
        assert sum(not enclave.stopped for enclave in self.enclaves) <= self.beside
        life = self._lives.pop(0)
        if isinstance(life, EphemeralMLError):
            raise life
        enclave = Enclave(
            Address("unix", path=f"{self.address.path}-{len(self.enclaves)}") if self.beside else self.address
        )
        self.enclaves.append(enclave)
        self.tasks.append(asyncio.ensure_future(life(self, enclave)))
        return enclave

    async def say(self, state: str, code: str = "", message: str = "") -> None:
        await self.supervisor.on_state(state, code, message)


async def crash_at_boot(_: World, enclave: Enclave) -> None:
    enclave.ended.set_result(ENDED)


async def serve_and_crash(world: World, enclave: Enclave) -> None:
    await world.say("ready", message="boot times")
    await asyncio.sleep(0.01)
    assert world.relay.enclave == world.address
    enclave.ended.set_result(ENDED)


async def hang(_: World, __: Enclave) -> None:
    await asyncio.Event().wait()


def fail_with(code: str) -> Life:
    async def life(world: World, _: Enclave) -> None:
        await world.say("failed", code, "why")

    return life


def supervise(
    folder: Path, *lives: Life | EphemeralMLError, restarts: Restarts = QUICK
) -> tuple[World, EphemeralMLError]:
    """The world, and what the supervision ended with."""

    async def main() -> tuple[World, EphemeralMLError]:
        world = World(folder, list(lives), restarts)
        async with asyncio.timeout(60):
            with pytest.raises(EphemeralMLError) as caught:
                await world.supervisor.run()
        assert all(enclave.stopped for enclave in world.enclaves)
        assert world.relay.enclave is None
        for task in world.tasks:
            task.cancel()
        await asyncio.gather(*world.tasks, return_exceptions=True)
        return world, caught.value

    return asyncio.run(main())


def test_pauses_double_up_to_a_limit_and_then_it_gives_up(tmp_path: Path) -> None:
    restarts = Restarts(first_pause=0.001, longest_pause=0.005, attempts=6)
    world, error = supervise(tmp_path, *[crash_at_boot] * 9, restarts=restarts)
    assert [pause for _, pause in world.restarts] == [0.001, 0.002, 0.004, 0.005, 0.005]
    assert len(world.enclaves) == 6
    assert str(error) == "gave up after 6 failures in a row; the last: it ended"
    assert error.code == "enclave.ended"
    assert world.ready == []


def test_an_enclave_that_crashes_soon_after_it_is_ready_is_in_the_same_row(tmp_path: Path) -> None:
    world, _ = supervise(tmp_path, crash_at_boot, *[serve_and_crash] * 9)
    assert len(world.enclaves) == 4
    assert world.ready == ["boot times"] * 3


def test_one_that_served_for_long_begins_a_new_row(tmp_path: Path) -> None:
    restarts = Restarts(first_pause=0.001, attempts=2, steady=0.001)
    world, error = supervise(tmp_path, *[serve_and_crash] * 5, crash_at_boot, crash_at_boot, restarts=restarts)
    # The first crash at boot is the second failure in a row: after the last one that served.
    assert len(world.enclaves) == 6
    assert "2 failures" in str(error)


@pytest.mark.parametrize(
    "code",
    [
        "kms.access_denied",
        "kms.ciphertext",
        "key_release.opened",
        "manifest.rollback",
        "manifest.signature",
        "artifact.truncated",
        "package.missing",
        "configuration.malformed",
        "something.new",
        "",
    ],
)
def test_a_refusal_is_not_asked_for_again(tmp_path: Path, code: str) -> None:
    world, error = supervise(tmp_path, fail_with(code), hang)
    assert len(world.enclaves) == 1
    assert error.code == (code or "enclave")
    assert str(error) == "the enclave did not boot: why"


@pytest.mark.parametrize("code", ["kms.unreachable", "transport.closed", "internal"])
def test_what_may_pass_is_tried_again(tmp_path: Path, code: str) -> None:
    world, error = supervise(tmp_path, fail_with(code), fail_with(code), fail_with("kms.access_denied"))
    assert [restart[0] for restart in world.restarts] == [code, code]
    assert error.code == "kms.access_denied"


def test_an_enclave_that_is_not_ready_in_time(tmp_path: Path) -> None:
    world, error = supervise(tmp_path, *[hang] * 2, restarts=Restarts(boot=0.01, first_pause=0.001, attempts=2))
    assert [restart[0] for restart in world.restarts] == ["enclave.boot_timeout"]
    assert error.code == "enclave.boot_timeout"


def test_a_start_that_fails_is_a_failure_as_any(tmp_path: Path) -> None:
    passing = EnclaveFailedError("no", code="nitro.driver", passing=True)
    world, error = supervise(tmp_path, passing, EnclaveFailedError("never", code="nitro.memory", passing=False))
    assert [restart[0] for restart in world.restarts] == ["nitro.driver"]
    assert error.code == "nitro.memory"
    _, error = supervise(tmp_path, ConfigurationError("no such program", code="nitro.program"))
    assert error.code == "nitro.program"


def test_what_an_enclave_says_too_late_is_not_taken_for_the_next_one(tmp_path: Path) -> None:
    async def ready_and_more(world: World, enclave: Enclave) -> None:
        await world.say("ready")
        await world.say(*DENIED)
        await asyncio.sleep(0.01)
        enclave.ended.set_result(ENDED)
        while not enclave.stopped:
            await asyncio.sleep(0)
        # Nothing has been started after it yet.
        await world.say("ready")

    world, error = supervise(tmp_path, ready_and_more, fail_with("kms.access_denied"))
    assert len(world.enclaves) == 2
    assert error.code == "kms.access_denied"
    assert world.ready == [""]


def test_clients_are_told_while_it_is_away_and_cut_off_from_the_one_before(tmp_path: Path) -> None:
    async def main() -> None:
        again = asyncio.Event()

        async def once(world: World, enclave: Enclave) -> None:
            await world.say("ready")
            await again.wait()
            again.clear()
            enclave.ended.set_result(ENDED)

        world = World(tmp_path, [once, hang], QUICK)

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.read(100))
            # This enclave's connections say nothing when it goes, as those of a vsock may.
            await reader.read()
            writer.close()

        behind, _ = await listen(world.address, echo)
        server, bound = await serve(Address.parse("tcp://127.0.0.1:0"), world.relay.connection)
        with closing(behind), closing(server):
            supervising = asyncio.ensure_future(world.supervisor.run())
            while world.relay.enclave is None:
                await asyncio.sleep(0.001)
            reader, writer = await open_stream(bound)
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            again.set()
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
            late, late_writer = await open_stream(bound)
            frame = await late.read()
            assert frame[4] == FrameType.ALERT
            assert Notice.from_bytes(frame[HEADER.size :]).code == "unavailable"
            for each in (writer, late_writer):
                each.close()
            supervising.cancel()
            await asyncio.wait({supervising})
            await world.relay.close()
        assert [enclave.stopped for enclave in world.enclaves] == [True, True]

    asyncio.run(main())


def test_an_enclave_that_others_start_is_waited_for_and_left_alone(tmp_path: Path) -> None:
    async def main() -> None:
        ready: list[str] = []
        relay = Relay(Address("unix", path=f"{tmp_path}/enclave"), on_closed=lambda _: None)
        supervisor = given(relay, ready)
        running = asyncio.ensure_future(supervisor.run())
        await supervisor.on_state("ready", "", "boot times")
        await asyncio.sleep(0.01)
        assert ready == ["boot times"]
        assert relay.enclave is not None
        running.cancel()
        await asyncio.wait({running})
        failed = given(relay, ready)
        await failed.on_state(*DENIED)
        with pytest.raises(EnclaveFailedError, match="denied"):
            await failed.run()

    asyncio.run(main())


async def serve_on(world: World, _: Enclave) -> None:
    await world.say("ready", message="boot times")


def replacing(folder: Path, *lives: Life | EphemeralMLError, steps: Callable[[World], Awaitable[None]]) -> World:
    """A world whose first enclave serves, after `steps`; everything of it is stopped."""

    async def main() -> World:
        world = World(folder, [serve_on, *lives], QUICK)
        supervising = asyncio.ensure_future(world.supervisor.run())
        async with asyncio.timeout(30):
            await until(lambda: world.relay.enclave is not None)
            world.beside = 1
            await steps(world)
        supervising.cancel()
        await asyncio.wait({supervising})
        assert all(enclave.stopped for enclave in world.enclaves)
        for task in world.tasks:
            task.cancel()
        await asyncio.gather(*world.tasks, return_exceptions=True)
        return world

    return asyncio.run(main())


async def until(true: Callable[[], object]) -> None:
    while not true():
        await asyncio.sleep(0.001)


def test_another_enclave_takes_over_before_the_first_is_stopped(tmp_path: Path) -> None:
    async def steps(world: World) -> None:
        first = world.relay.enclave
        world.supervisor.replace()
        await until(lambda: world.relay.enclave != first)
        assert world.relay.enclave == world.enclaves[1].address
        assert not world.enclaves[1].stopped
        await until(lambda: world.enclaves[0].stopped)

    world = replacing(tmp_path, serve_on, steps=steps)
    assert (world.ready, world.prepared, world.restarts) == (["boot times"] * 2, 2, [])


def kept(world: World, number: int) -> bool:
    return len(world.kept) == number


@pytest.mark.parametrize("life", [crash_at_boot, fail_with("package.damaged"), ConfigurationError("no", code="x")])
def test_one_that_fails_takes_nothing_over(tmp_path: Path, life: Life | EphemeralMLError) -> None:
    async def steps(world: World) -> None:
        first = world.relay.enclave
        for number in (1, 2):
            world.supervisor.replace()
            await until(partial(kept, world, number))
            assert world.relay.enclave == first
            assert not world.enclaves[0].stopped

    world = replacing(tmp_path, life, life, steps=steps)
    assert (world.ready, world.restarts) == (["boot times"], [])


def test_an_enclave_that_ends_while_another_boots_is_replaced_by_it(tmp_path: Path) -> None:
    async def slow(world: World, _: Enclave) -> None:
        world.enclaves[0].ended.set_result(ENDED)
        await asyncio.sleep(0.02)
        await world.say("ready", message="boot times")

    async def steps(world: World) -> None:
        world.supervisor.replace()
        await until(lambda: len(world.enclaves) == 2 and world.relay.enclave == world.enclaves[1].address)

    assert replacing(tmp_path, slow, steps=steps).restarts == []


def test_an_enclave_that_serves_and_then_hangs_is_started_again(tmp_path: Path) -> None:
    async def fall_silent(world: World, enclave: Enclave) -> None:
        """Its kernel takes connections, and nobody says a word."""
        path = Path(enclave.address.path)
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            await world.say("ready", message="boot times")
            await asyncio.Event().wait()

    restarts = Restarts(first_pause=0.001, attempts=2, health=Health(every=0.05, misses=2))
    world, error = supervise(tmp_path, fall_silent, fall_silent, restarts=restarts)
    assert error.code == "enclave.hung"
    assert [code for code, _ in world.restarts] == ["enclave.hung"]

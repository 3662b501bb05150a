"""nitro-cli's answers and errors, its good ones and all others; the program is a stand-in, the processes are real."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nitro import PCRS, Instance

from ephemeralml.errors import ConfigurationError
from ephemeralml.host import nitro_cli
from ephemeralml.host.nitro_cli import NitroCliError

MINE = {
    "EnclaveName": "mine",
    "EnclaveID": "i-0-enc1",
    "ProcessID": 4000,
    "EnclaveCID": 16,
    "NumberOfCPUs": 2,
    "CPUIDs": [1, 3],
    "MemoryMiB": 512,
    "State": "RUNNING",
    "Flags": "NONE",
    "Measurements": {"HashAlgorithm": "Sha384 { ... }"} | PCRS,
}


NEVER: list[dict[str, object]] = [
    {"EnclaveID": "--all"},
    {"EnclaveID": "i-0-enc1\n"},
    {"EnclaveID": 7},
    {"EnclaveName": None},
    {"EnclaveName": "a\u001b[2J"},
    {"EnclaveName": "a" * 400},
    {"ProcessID": "4000"},
    {"ProcessID": True},
    {"ProcessID": 0},
    {"ProcessID": -1},
    {"ProcessID": 2**40},
    {"ProcessID": 4000.0},
    {"State": ["RUNNING"]},
    {"Measurements": []},
    {"Measurements": {"PCR0": PCRS["PCR0"]}},
    {"Measurements": PCRS | {"PCR1": PCRS["PCR1"][:-1]}},
    {"Measurements": PCRS | {"PCR2": 5}},
    {"Measurements": PCRS | {"PCR8": "x" * 96}},
]


def call(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def started(eif: Path, *, cid: int | None = None, debug: bool = False) -> nitro_cli.Started:
    answer: nitro_cli.Started = call(nitro_cli.run(eif=eif, cpus=2, memory=512, cid=cid, name="mine", debug=debug))
    return answer


def refused(work: Coroutine[Any, Any, Any]) -> NitroCliError:
    with pytest.raises(NitroCliError) as caught:
        call(work)
    return caught.value


def test_an_enclave_is_started_described_and_terminated(instance: Instance) -> None:
    eif = instance.image("sleep", 600)
    enclave = started(eif)
    assert (enclave.name, enclave.cid) == ("mine", 16)
    assert instance.calls("run-enclave") == [
        ["--eif-path", str(eif), "--cpu-count", "2", "--memory", "512", "--enclave-name", "mine"]
    ]
    [described] = call(nitro_cli.describe())
    assert (described.identity, described.process, described.name) == (enclave.identity, enclave.process, "mine")
    assert (described.state, described.flags) == ("RUNNING", "NONE")
    assert described.pcrs == {index: PCRS[f"PCR{index}"] for index in range(3)}
    call(nitro_cli.terminate(enclave.identity))
    assert call(nitro_cli.describe()) == []
    assert refused(nitro_cli.terminate(enclave.identity)).code == "nitro.gone"


def test_cid_and_debug_mode_are_asked_for(instance: Instance) -> None:
    assert started(instance.image("sleep", 600), cid=77, debug=True).cid == 77
    assert instance.calls("run-enclave")[0][-3:] == ["--enclave-cid", "77", "--debug-mode"]
    assert call(nitro_cli.describe())[0].flags == "DEBUG_MODE"


@pytest.mark.parametrize(
    ("error", "code", "passing", "advice"),
    [
        ("E05", "internal", True, "/var/log/nitro_enclaves"),
        ("E11", "gone", True, "not there"),
        ("E18", "file", False, "group ne"),
        ("E19", "file", False, "/dev/nitro_enclaves"),
        ("E22", "cpu", False, "cpu_count"),
        ("E26", "memory_requested", False, "four times"),
        ("E27", "memory", False, "memory_mib"),
        ("E29", "driver", True, "kernel's log"),
        ("E33", "driver", True, "kernel's log"),
        ("E35", "image", False, "damaged"),
        ("E36", "boot", True, "--debug"),
        ("E39", "gone", True, "not there"),
        ("E51", "file", False, "group ne"),
        ("E59", "image", False, "signed"),
        ("E99", "internal", True, "/var/log/nitro_enclaves"),
    ],
)
def test_a_start_that_fails_says_its_cause_and_the_fix(
    instance: Instance, error: str, code: str, *, passing: bool, advice: str
) -> None:
    instance.script(run_enclave=[{"error": error}])
    with pytest.raises(NitroCliError, match=rf"nitro-cli run-enclave failed \({error}\)") as caught:
        started(instance.image("sleep", 600))
    assert (caught.value.code, caught.value.passing) == (f"nitro.{code}", passing)
    assert advice in str(caught.value)


def test_an_option_that_nitro_cli_does_not_know(instance: Instance) -> None:
    instance.script(run_enclave=[{"answer": "", "status": 2}])
    with pytest.raises(NitroCliError, match=r"1\.2 or later") as caught:
        started(instance.image("sleep", 600))
    assert caught.value.code == "nitro.argument"


def test_no_nitro_cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="aws-nitro-enclaves-cli") as caught:
        call(nitro_cli.describe())
    assert caught.value.code == "nitro.program"


def test_a_silent_one_is_given_up(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nitro_cli, "_RUN_SECONDS", 1)
    instance.script(run_enclave=[{"hang": 600}])
    with pytest.raises(NitroCliError, match="did not end in 1 s") as caught:
        started(instance.image("sleep", 600))
    assert (caught.value.code, caught.value.passing) == ("nitro.silent", True)


def test_one_that_never_stops_talking_is_stopped(instance: Instance) -> None:
    # Killed: waited for, it would be `nitro.silent`.
    instance.script(describe_enclaves=[{"answer": "[" * 1000, "times": 1000, "then": 600}])
    error = refused(nitro_cli.describe())
    assert error.code == "nitro.answer"
    assert "262144 bytes" in str(error)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "nonsense",
        "{}",
        "[[]]",
        "[" * 100_000,
        '[{"State": 1' + "1" * 10_000 + "}]",
        json.dumps([MINE])[:-3],
        json.dumps([MINE]) * 2,
        json.dumps([MINE]).replace('"State"', '"State": "EMPTY", "State"'),
        *(json.dumps([{key: value for key, value in MINE.items() if key != name}])
          for name in ("EnclaveID", "ProcessID", "State", "Flags", "Measurements")),
        *(json.dumps([MINE | changed]) for changed in NEVER),
    ],
)  # fmt: skip
def test_an_answer_that_nitro_cli_never_gives(instance: Instance, answer: str) -> None:
    instance.script(describe_enclaves=[{"answer": answer}])
    error = refused(nitro_cli.describe())
    assert (error.code, error.passing) == ("nitro.answer", False)


def test_an_enclave_without_a_name_is_of_an_older_nitro_cli(instance: Instance) -> None:
    instance.script(describe_enclaves=[{"answer": json.dumps([{k: v for k, v in MINE.items() if k != "EnclaveName"}])}])
    assert call(nitro_cli.describe())[0].name == ""


@pytest.mark.parametrize("changed", [{"Terminated": False}, {"Terminated": "yes"}, {"EnclaveID": "i-0-enc2"}])
def test_a_termination_that_is_none(instance: Instance, changed: dict[str, Any]) -> None:
    answer = {"EnclaveName": "mine", "EnclaveID": "i-0-enc1", "Terminated": True}
    instance.script(terminate_enclave=[{"answer": json.dumps(answer)}, {"answer": json.dumps(answer | changed)}])
    call(nitro_cli.terminate("i-0-enc1"))
    assert refused(nitro_cli.terminate("i-0-enc1")).code == "nitro.answer"


@pytest.mark.parametrize("cid", [0, 3, 2**32 - 1, "16", None])
def test_a_cid_that_no_enclave_has(instance: Instance, cid: object) -> None:
    instance.script(run_enclave=[{"answer": json.dumps(MINE | {"EnclaveCID": cid})}])
    with pytest.raises(NitroCliError, match="EnclaveCID"):
        started(instance.image("sleep", 600))


@given(st.binary(max_size=2000))
def test_a_line_for_the_log_is_short_and_obeyed_by_no_terminal(line: bytes) -> None:
    shown = nitro_cli.printable(line)
    assert len(shown) <= 300
    assert shown.isprintable() or shown == ""

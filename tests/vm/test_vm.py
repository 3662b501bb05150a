"""The image boots under QEMU: from the kernel to a receipt that the unchanged verifier accepts, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from vm_world import MEMORY, SECONDS, VmWorld, change_init, guest_memory, machine_of, ready

from ephemeralml.client import Client
from ephemeralml.devcloud.world import WorldError
from ephemeralml.errors import AttestationError
from ephemeralml.receipts import verify_bundle

pytestmark = pytest.mark.vm

# How often the same image is booted, one after the other; `make test-vm` does it 20 times.
_BOOTS = int(os.environ.get("EPHEMERALML_VM_BOOTS", "1"))


def _pcr0(measurements: Path) -> str:
    return str(json.loads(measurements.read_text())["PCR0"])


@pytest.mark.parametrize("boot", range(1, _BOOTS + 1))
def test_a_booted_image_attests_gets_the_key_and_answers_with_a_receipt(
    vm: VmWorld, boot: int, say: Callable[[str], None]
) -> None:
    start = time.monotonic()
    with vm.host() as host, vm.client(host) as client:
        result = client.embed(["a text", "another"])
        answered = time.monotonic() - start
        size, touched = guest_memory(machine_of(host))
    say(f"boot {boot}: first verified answer after {answered:.1f} s, {touched / 2**20:.0f} MiB of the guest's memory")

    verdict = verify_bundle(result.bundle.to_bytes(), policy=vm.policy)
    assert result.vectors.shape == (2, 32)
    assert verdict.ok
    assert not verdict.confidential
    assert verdict.document.pcrs[0].hex() == _pcr0(vm.built.measurements)
    assert touched <= size == MEMORY * 2**20


@pytest.mark.slow
def test_minilm_in_fp32_fits_and_gives_the_golden_vectors(
    minilm_vm: VmWorld, golden: Path, say: Callable[[str], None]
) -> None:
    texts = json.loads((golden / "minilm_texts.json").read_text())[:4]
    vectors = np.load(golden / "minilm_embeddings.npy")[:4]
    start = time.monotonic()
    with minilm_vm.host() as host, minilm_vm.client(host) as client:
        result = client.embed(texts)
        answered = time.monotonic() - start
        size, touched = guest_memory(machine_of(host))
    say(f"MiniLM: first verified answer after {answered:.1f} s, {touched / 2**20:.0f} MiB of the guest's memory")

    np.testing.assert_allclose(result.vectors, vectors, atol=1e-5)
    assert touched <= size == MEMORY * 2**20


@pytest.mark.slow
def test_another_byte_in_the_root_file_system_is_another_pcr0_and_gets_no_key(vm: VmWorld, tmp_path: Path) -> None:
    measurements = change_init(vm.built, tmp_path / "changed.eif")
    assert _pcr0(measurements) != _pcr0(vm.built.measurements)

    with (
        vm.host(eif=tmp_path / "changed.eif") as host,
        pytest.raises(WorldError, match=r"PCR0 does not match the key policy"),
    ):
        ready(host)


def test_an_image_that_was_not_expected_is_not_started(vm: VmWorld, tmp_path: Path) -> None:
    change_init(vm.built, tmp_path / "changed.eif")

    with (
        vm.host("--measurements", str(vm.built.measurements), eif=tmp_path / "changed.eif") as host,
        pytest.raises(WorldError, match="is not the image that was expected"),
    ):
        ready(host)


@pytest.mark.slow
def test_debug_mode_shows_the_console_and_gets_no_key(vm: VmWorld) -> None:
    with vm.host("--debug") as host:
        with pytest.raises(WorldError):
            ready(host)
        said = "\n".join(host.words())

    assert "Run /init as init process" in said
    assert "kms.access_denied" in said


@pytest.mark.slow
def test_a_console_is_not_shown_without_debug_mode(vm: VmWorld) -> None:
    with vm.host() as host:
        ready(host)
        host.stop()
        assert "enclave console" not in "\n".join(host.words())


def test_a_machine_smaller_than_its_image_needs_is_not_started(vm: VmWorld) -> None:
    with vm.host("--memory", "64") as host, pytest.raises(WorldError, match="give at least --memory"):
        ready(host)


@pytest.mark.slow
def test_a_killed_machine_is_started_again_while_its_clients_wait(vm: VmWorld) -> None:
    with vm.host() as host, vm.client(host) as client, ThreadPoolExecutor() as pool:
        client.embed(["before"])
        machine = machine_of(host)
        os.kill(machine, signal.SIGKILL)
        answers = [pool.submit(client.embed, [f"after {number}"]) for number in range(4)]
        assert host.event("enclave failed")["code"] == "enclave.ended"
        results = [answer.result(SECONDS) for answer in answers]

        assert machine_of(host) != machine
    assert all(verify_bundle(result.bundle.to_bytes(), policy=vm.policy).ok for result in results)


@pytest.mark.slow
def test_a_client_that_trusts_another_image_sends_nothing(vm: VmWorld, tmp_path: Path) -> None:
    other = vm.policy_for(change_init(vm.built, tmp_path / "other.eif"))

    with vm.host() as host:
        relay = ready(host)
        with pytest.raises(AttestationError), Client(relay, policy=other, timeout=SECONDS):
            pass


@pytest.mark.slow
def test_a_killed_host_leaves_no_machine(vm: VmWorld) -> None:
    with vm.host() as host:
        ready(host)
        machine = Path(f"/proc/{machine_of(host)}/cmdline")
        host.kill()
        deadline = time.monotonic() + 30
        while machine.exists() and machine.read_bytes() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not (machine.exists() and machine.read_bytes())

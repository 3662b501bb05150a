"""The main job with nothing but a hybrid vsock between the host and its enclave, as under Firecracker."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

TEXTS = ["over the vsock", "and back", "again and again " * 100]


def test_the_main_job_and_a_restarted_enclave(
    tmp_path: Path, tiny_model: Path, deploy: Callable[..., AbstractContextManager[Any]]
) -> None:
    with deploy(tmp_path, tiny_model, {}, vsock=True) as deployed:
        expected = deployed.encoder.encode(TEXTS)
        with deployed.client() as client:
            np.testing.assert_allclose(client.embed(TEXTS).vectors, expected, atol=1e-5)
            # A new enclave under the same relay: its vsock is made anew at the same path.
            deployed.restart()
            np.testing.assert_allclose(client.embed(TEXTS).vectors, expected, atol=1e-5)
            assert client.attestations == 2
        # Host and enclave have no other way to each other, and the enclave answers on its own port alone.
        assert {path.name for path in tmp_path.rglob("*") if path.is_socket()} == {"v", "v_5001"}
        for port, answer in ((5000, b"OK"), (5001, b""), (5002, b"")):
            with socket.socket(socket.AF_UNIX) as caller:
                caller.settimeout(5)
                caller.connect(str(tmp_path / "v"))
                caller.sendall(b"CONNECT %d\n" % port)
                assert caller.recv(2) == answer
    assert not any(path.is_socket() for path in tmp_path.rglob("*"))

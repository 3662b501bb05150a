"""Ours and the others: what is not here is null with a reason."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ephemeralml.bench import limits, peers, throughput
from ephemeralml.bench.case import Bench, Effort
from ephemeralml.bench.ours import PRECISIONS, Ours, bare_call, flops_per_token
from ephemeralml.errors import ModelError
from ephemeralml.inference import Encoder

LIBRARIES = {"torch", "sentence_transformers", "transformers", "openvino", "fastembed", "onnx", "threadpoolctl"}


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **named: Any) -> Any:
        if name.partition(".")[0] in LIBRARIES:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.fixture
def bench(tiny_model: Path) -> Bench:
    return Bench(tiny_model, effort=Effort.quick(), say=lambda _: None)


@pytest.mark.usefixtures("nothing_installed")
def test_absent_peers_have_a_reason(tiny_model: Path, tmp_path: Path) -> None:
    found = peers.load(peers.Setting(tiny_model, Ours.load(tiny_model).fp32.spec, tmp_path))
    assert found.embed == {}
    assert set(found.absent) >= {peers.INCUMBENT, peers.PLAIN_ORT, "fastembed fp32", "openvino fp32", "openvino bf16"}
    assert all("No module named" in reason for reason in found.absent.values())


@pytest.mark.usefixtures("nothing_installed")
def test_absent_peers_are_null_in_a_case(bench: Bench) -> None:
    with bench:
        case = throughput.mixed_list(bench).to_json()
    assert case["series"]["ours fp32"]["count"] == bench.effort.list_rounds
    assert case["series"][peers.INCUMBENT] is None
    assert "No module named" in case["absent"][peers.INCUMBENT]
    nulls = [name for part in ("series", "figures") for name, value in case[part].items() if value is None]
    assert set(nulls) == set(case["absent"])
    assert not any(value == 0 for value in case["figures"].values())


@pytest.mark.usefixtures("nothing_installed")
def test_limits_without_libraries_are_numpys() -> None:
    found = limits.prepare(64)
    assert list(found.calls) == ["numpy fp32"]
    assert set(found.absent) == {"torch fp32", "torch bf16", "torch int8", "ONNX Runtime int8"}


def test_the_fastest_library_is_the_limit() -> None:
    found = limits.Limits(1000, precision={"slow": "fp32", "fast": "fp32", "other": "int8"})
    assert found.fastest({"slow": 20.0, "fast": 10.0, "other": 1.0}) == {
        "fp32": ("fast", 200.0),
        "int8": ("other", 2000.0),
    }


def test_precisions_are_probed(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Encoder.from_folder

    def from_folder(path: Path, *, threads: int | None = None, precision: str = "fp32") -> Encoder:
        if precision == "bf16":
            raise ModelError("this CPU has no bf16", code="model.precision")
        return real(path, threads=threads)

    monkeypatch.setattr(Encoder, "from_folder", from_folder)
    ours = Ours.load(tiny_model)
    assert set(ours.encoders) == {"fp32", "int8"}
    assert ours.absent == {"bf16": "this CPU has no bf16"}


def test_precisions_of_this_release_are_all_accounted_for(tiny_model: Path) -> None:
    ours = Ours.load(tiny_model)
    assert {*ours.encoders, *ours.absent} == set(PRECISIONS)


def test_the_bare_call_gives_the_encoders_vector(tiny_model: Path) -> None:
    encoder = Ours.load(tiny_model).fp32
    vector = np.asarray(bare_call(encoder, "a b c")())
    np.testing.assert_allclose(vector[0], encoder.encode("a b c"), atol=1e-6)


def test_flops_of_a_token(tiny_model: Path) -> None:
    # Two layers of 32 dimensions and 64 inside: 2 × 2 × (4 × 32² + 2 × 32 × 64).
    assert flops_per_token(tiny_model) == 2 * 2 * (4 * 32 * 32 + 2 * 32 * 64)


def test_peers_pool_as_we_do(tiny_model: Path, tmp_path: Path) -> None:
    encoder = Ours.load(tiny_model).fp32
    states: dict[tuple[int, ...], np.ndarray] = {}

    def hidden(ids: Any, mask: Any) -> Any:
        made = np.random.default_rng(0).standard_normal((*ids.shape, 32)).astype(np.float32)
        states[ids.shape] = made
        return made

    embed = peers._by_length(peers.Setting(tiny_model, encoder.spec, tmp_path), hidden)
    texts: Sequence[str] = ["a b", "a b c d e", "a"]
    vectors = embed(texts)
    [made] = states.values()
    # Longest first; the third row has three tokens: [CLS] a [SEP].
    mean = made[2, :3].mean(0)
    np.testing.assert_allclose(vectors[2], mean / np.linalg.norm(mean), rtol=1e-5)

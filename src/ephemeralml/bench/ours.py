"""Our own engine as the cases need it: in every precision it offers, and bare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from ephemeralml.bench.machine import THREADS
from ephemeralml.errors import EphemeralMLError
from ephemeralml.inference import Encoder
from ephemeralml.package.model import read_json_object

PRECISIONS: Final = ("fp32", "bf16", "int8")
"""What is asked for; what an `Encoder` does not offer, here or at all, is null with the reason."""


@dataclass(frozen=True, slots=True)
class Ours:
    """Encoders by precision, fp32 always among them, and why the others are not there."""

    encoders: Mapping[str, Encoder]
    absent: Mapping[str, str]

    @classmethod
    def load(cls, folder: Path) -> Ours:
        """Raises `ModelError` when even fp32 does not load."""
        encoders = {"fp32": Encoder.from_folder(folder, threads=THREADS)}
        absent: dict[str, str] = {}
        for precision in PRECISIONS[1:]:
            try:
                encoders[precision] = Encoder.from_folder(folder, threads=THREADS, precision=precision)
            # An engine that is not installed is no error of ours.
            except (EphemeralMLError, ImportError) as error:
                absent[precision] = str(error)
        return cls(encoders, absent)

    @property
    def fp32(self) -> Encoder:
        """The one that everything else is compared with."""
        return self.encoders["fp32"]

    def count(self, text: str) -> int:
        """Tokens of a text as the model reads it."""
        return len(self.fp32.tokenize([text])[0])


def model_name(folder: Path) -> str:
    """What the folder is called; the installed model's is called just ``model``, in a package with its name."""
    return folder.name if folder.name != "model" else folder.resolve().parent.name


def bare_call(encoder: Encoder, text: str) -> Callable[[], object]:
    """The engine alone on this text's token ids, padded and masked beforehand: what no encoder could be faster than."""
    ids = np.array(encoder.tokenize([text]), np.int32)
    mask = np.ones_like(ids)
    # The one place that reaches under the public interface: to measure what that interface costs.
    engine: Any = encoder._engine
    return lambda: engine.run(ids, mask)


def flops_per_token(folder: Path) -> float:
    """Floating-point operations of one token in the encoder's matrices, from config.json: 21.2 MFLOP for MiniLM-L6.

    Two for each weight of the four attention matrices and the two of the feed-forward part. Attention scores (which
    grow with length), normalisation and activation are left out, so shares of a limit are understated by them.
    """
    config = read_json_object({"config.json": (folder / "config.json").read_bytes()}, "config.json")
    hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    return 2.0 * int(config["num_hidden_layers"]) * (4 * hidden * hidden + 2 * hidden * inner)

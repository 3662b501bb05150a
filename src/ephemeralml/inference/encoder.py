"""Texts to vectors: the one class that the bare-metal baseline and the enclave both use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from ephemeralml.errors import ModelError
from ephemeralml.inference.bert import BertConfig, build_graph
from ephemeralml.inference.convert import convert_weights
from ephemeralml.inference.grid import TOKENS_PER_CALL, Grid
from ephemeralml.inference.tokenizer import Tokenizer
from ephemeralml.inference.weights import Array, Weights
from ephemeralml.package.model import (
    CONFIG_FILES,
    Buffer,
    ModelSpec,
    check_model_folder,
    private_memory,
    read_json_object,
    read_model_spec,
)

WEIGHTS_FILE: Final = "model.safetensors"
TOKENIZER_FILES: Final = ("tokenizer.json", "vocab.txt")
TOKENS_PER_RUN: Final = 512
"""Padded tokens of one engine call at most (or one text): larger calls leave the caches and make others wait longer."""

_MAX_PADDING: Final = 2
_MAX_TOKENIZER_BYTES: Final = 64 << 20


class _Engine(Protocol):
    @property
    def precision(self) -> str: ...

    def run(self, ids: npt.NDArray[np.int32], mask: npt.NDArray[np.int32]) -> Array: ...


class Encoder:
    """A BERT-family sentence-transformers model on the CPU. Thread-safe.

    In fp32 a text's vector does not depend on what it is batched with, to 1e-5. `grid`: the only shapes the engine is
    to see.
    """

    def __init__(self, *, spec: ModelSpec, tokenizer: Tokenizer, engine: _Engine, grid: Grid | None = None) -> None:
        self.spec = spec
        self._tokenizer = tokenizer
        self._engine = engine
        self._grid = grid

    @classmethod
    def from_folder(cls, path: str | PathLike[str], *, precision: str = "fp32", threads: int | None = None) -> Encoder:
        """Load a folder as sentence-transformers writes it, as a package packed in `precision` would run.

        Raises `ModelError` naming the file that is at fault.
        """
        folder = Path(path)
        check_model_folder(folder)
        names = [name for name in (*CONFIG_FILES, *TOKENIZER_FILES, WEIGHTS_FILE) if (folder / name).is_file()]
        try:
            files: dict[str, Buffer] = {name: _read(folder / name) for name in names}
        except OSError as error:
            raise ModelError(f"cannot read {error.filename}: {error.strerror}", code="model.missing") from error
        spec = read_model_spec(files, precision=precision)
        if precision != "fp32" and WEIGHTS_FILE in files:
            files[WEIGHTS_FILE] = convert_weights(files[WEIGHTS_FILE], precision=precision)
        return cls.from_buffers(files, spec=spec, threads=threads)

    @classmethod
    def from_buffers(cls, files: Mapping[str, Buffer], *, spec: ModelSpec, threads: int | None = None) -> Encoder:
        """Load from a folder's files by their relative names. The weights are used where they lie, and must not change.

        `threads`: of the engine, by default the CPUs this process may use. Raises `ModelError` naming what is at fault.
        """
        if WEIGHTS_FILE not in files:
            raise ModelError(f"the model has no {WEIGHTS_FILE}", code="model.missing")
        if any(len(files[name]) > _MAX_TOKENIZER_BYTES for name in TOKENIZER_FILES if name in files):
            raise ModelError(f"the tokenizer is larger than {_MAX_TOKENIZER_BYTES} bytes", code="model.tokenizer")
        config = BertConfig.from_json(read_json_object(files, "config.json"))
        if spec.dimension != config.hidden_size or spec.max_sequence_length > config.max_position_embeddings:
            raise ModelError("config.json does not fit the model's specification", code="model.config")
        weights = Weights(files[WEIGHTS_FILE])
        # The engine packs the matrices meanwhile, without the interpreter's lock.
        with ThreadPoolExecutor(1) as background:
            tokenizer = background.submit(
                Tokenizer, files, max_length=spec.max_sequence_length, vocab_size=config.vocab_size
            )
            engine, grid = load_engine(config, spec, weights, threads=threads)
            return cls(spec=spec, tokenizer=tokenizer.result(), engine=engine, grid=grid)

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        return self.spec.dimension

    @property
    def precision(self) -> str:
        """What the engine runs in: ``fp32``, ``bf16`` or ``int8``; receipts name it."""
        return self._engine.precision

    @property
    def tokens_per_run(self) -> int:
        """Tokens that fill an engine call."""
        # Packed rows are never quite full: more than this would spill into a second call.
        return TOKENS_PER_RUN if self._grid is None else TOKENS_PER_CALL * 9 // 10

    @property
    def max_sequence_length(self) -> int:
        """Tokens of a text that count, special ones included; the rest is cut off."""
        return self.spec.max_sequence_length

    def encode(self, texts: str | Sequence[str]) -> Array:
        """float32 (texts, dimension) in the order given; (dimension,) for a single string.

        Raises `RequestError` for anything but Unicode strings.
        """
        if isinstance(texts, str):
            vector: Array = self.run(self.tokenize([texts]))[0]
            return vector
        return self.run(self.tokenize(texts))

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, cut at `max_sequence_length`."""
        return self._tokenizer(texts)

    def run(self, ids: Sequence[Sequence[int]]) -> Array:
        """Vectors of what `tokenize` gave: float32 (texts, dimension), order kept."""
        vectors = np.empty((len(ids), self.dimension), np.float32)
        for rows in self.group([len(tokens) for tokens in ids]):
            shape = len(rows), len(ids[rows[-1]])
            padded, mask = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
            for row, index in enumerate(rows):
                padded[row, : len(ids[index])] = ids[index]
                mask[row, : len(ids[index])] = 1
            vectors[rows] = self._engine.run(padded, mask)
        return vectors

    def group(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices of texts that share an engine call, ascending in length."""
        return group_by_length(lengths) if self._grid is None else self._grid.group(lengths)


def load_engine(
    config: BertConfig, spec: ModelSpec, weights: Weights, *, threads: int | None = None
) -> tuple[_Engine, Grid | None]:
    """The engine of the model's precision, and the only shapes it is to see if it has such. Raises `ModelError`."""
    if spec.precision == "fp32":
        from ephemeralml.inference.engine import Engine  # noqa: PLC0415

        return Engine(build_graph(config, spec, weights), threads=threads), None
    from ephemeralml.inference.openvino_engine import OpenVinoEngine  # noqa: PLC0415

    engine = OpenVinoEngine(config, spec, weights, threads=threads)
    return engine, engine.grid


def load_library(precision: str) -> None:
    """Import what runs models of this precision, while their weights are still on their way.

    Raises `ModelError` when it is not installed.
    """
    # Each is large: only the one that runs is loaded.
    if precision == "fp32":
        import ephemeralml.inference.engine  # noqa: F401, PLC0415
    else:
        from ephemeralml.inference.openvino_engine import load_openvino  # noqa: PLC0415

        load_openvino()


def _read(path: Path) -> Buffer:
    """The file in memory of its own, which for weights can be given back page by page."""
    if path.name != WEIGHTS_FILE or not (size := path.stat().st_size):
        return path.read_bytes()
    buffer = private_memory(size)
    with path.open("rb") as file:
        if file.readinto(buffer) != size:
            raise ModelError(f"{path} changed while it was read", code="model.weights")
    return buffer


def group_by_length(lengths: Sequence[int], *, budget: int = TOKENS_PER_RUN) -> list[list[int]]:
    """Indices of texts of similar length, ascending: each group padded to its longest is within `budget` tokens.

    A text longer than that is alone, and none is padded to more than twice its length, past the first 32 tokens
    where a call's own cost outweighs the padding.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[index]
        if groups:
            group = groups[-1]
            shortest = lengths[group[0]]
            if (len(group) + 1) * length <= budget and length <= max(_MAX_PADDING * shortest, 32):
                group.append(index)
                continue
        groups.append([index])
    return groups

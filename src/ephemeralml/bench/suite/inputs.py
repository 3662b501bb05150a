"""The texts of a run: made from Python's own docstrings, with exactly the tokens that are asked for."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Final

from ephemeralml.bench.suite.effort import Effort
from ephemeralml.bench.texts import exact_texts
from ephemeralml.inference.encoder import TOKENIZER_FILES
from ephemeralml.inference.tokenizer import Tokenizer
from ephemeralml.package.model import CONFIG_FILES, check_model_folder, positive_int, read_json_object, read_model_spec

TOKENS: Final = 9
_TEXTS: Final = 5
_BATCH_TOKENS: Final = 32
_MANY: Final = 256


class Inputs:
    """Texts for one model's folder. Raises `ModelError` when there is none, or its tokenizer cannot be read."""

    def __init__(self, model: Path) -> None:
        check_model_folder(model)
        names = [name for name in (*CONFIG_FILES, *TOKENIZER_FILES) if (model / name).is_file()]
        files = {name: (model / name).read_bytes() for name in names}
        spec = read_model_spec(files)
        self._longest = spec.max_sequence_length
        vocabulary = positive_int(read_json_object(files, "config.json"), "vocab_size")
        self._tokenizer = Tokenizer(files, max_length=spec.max_sequence_length, vocab_size=vocabulary)

    def _count(self, text: str) -> int:
        return len(self._tokenizer([text])[0])

    @cached_property
    def texts(self) -> list[str]:
        """Five of 9 tokens: what latency is measured with."""
        return exact_texts(_TEXTS, TOKENS, self._count)

    @cached_property
    def many(self) -> list[str]:
        """As long, for many clients."""
        return exact_texts(_MANY, TOKENS, self._count)

    def sweeps(self, effort: Effort) -> dict[str, list[list[str]]]:
        """Calls by the name of their series: one text of each length, so many texts of 32 tokens at once."""
        lengths = [length for length in effort.lengths if length <= self._longest]
        found = {f"length/{length}": [[text] for text in exact_texts(3, length, self._count)] for length in lengths}
        tokens = min(_BATCH_TOKENS, self._longest)
        pool = exact_texts(max(effort.batches), tokens, self._count)
        return found | {f"batch/{size}": [pool[:size]] for size in effort.batches}

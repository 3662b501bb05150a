"""What a sentence-transformers folder asks for, read from its small JSON files; what cannot be run is refused by name.

Nothing here touches weights or needs an inference engine: packing uses it to refuse a model before encrypting it.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from ephemeralml.errors import ModelError, UnsupportedModelError

Buffer: TypeAlias = bytes | bytearray | memoryview | mmap.mmap
Pooling: TypeAlias = Literal["mean", "cls"]

CONFIG_FILES = (
    "config.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "tokenizer_config.json",
    "config_sentence_transformers.json",
)
"""Every file `read_model_spec` looks at; only ``config.json`` must exist."""

MAX_CONFIG_BYTES = 1 << 20
MAX_DIMENSION = 8192
MAX_SEQUENCE_LENGTH = 8192

ARCHITECTURES = frozenset({"BertModel", "BertForMaskedLM", "BertForPreTraining"})
"""Values of config.json's ``architectures`` whose encoder is a plain BertModel (BERT, MiniLM, BGE, E5, GTE)."""
ACTIVATIONS = frozenset({"gelu", "gelu_new", "gelu_pytorch_tanh", "relu"})
PRECISIONS: Mapping[str, tuple[str, ...]] = {"fp32": ("fp32",), "bf16": ("bf16", "fp32"), "int8": ("int8",)}
"""What a package may be, and as what each may run: bf16 weights are computed in fp32 where the CPU has no AMX."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """How to turn token states into a vector; part of the signed manifest, fixed when the model is packed.

    ``max_sequence_length`` counts tokens, special ones included; ``precision`` is one of `PRECISIONS`. Raises
    `UnsupportedModelError` for a value that this release does not run, so that a manifest from a newer one is refused
    by name.
    """

    architecture: str
    pooling: Pooling
    normalize: bool
    max_sequence_length: int
    dimension: int
    precision: str = "fp32"

    def __post_init__(self) -> None:
        _require(self.architecture == "BertModel", "architecture", self.architecture)
        _require(self.pooling in ("mean", "cls"), "pooling", self.pooling)
        _require(self.precision in PRECISIONS, "precision", self.precision)
        _require(3 <= self.max_sequence_length <= MAX_SEQUENCE_LENGTH, "sequence length", self.max_sequence_length)
        _require(1 <= self.dimension <= MAX_DIMENSION, "dimension", self.dimension)


def private_memory(size: int) -> mmap.mmap:
    """Memory of `size` bytes (at least one) that nobody shares, so that its pages can be given back one by one.

    Large pages, where there are some, spare a third of the time that decrypting into it takes.
    """
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # A kernel may be built without large pages.
    with suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def check_model_folder(folder: Path) -> None:
    """Raises `ModelError` (``model.missing``) when there is no folder at that path."""
    if not folder.is_dir():
        instead = "a file" if folder.exists() else "nothing"
        raise ModelError(f"no model folder at {folder}: {instead} is there", code="model.missing")


def read_model_spec(files: Mapping[str, Buffer], *, precision: str = "fp32") -> ModelSpec:
    """Read the spec from a folder's `CONFIG_FILES`, with sentence-transformers' own defaults for those absent.

    `precision` is the packer's choice: nothing in the folder says it. Without modules.json the rest is mean pooling and
    no normalisation. Raises `UnsupportedModelError` naming what this release does not run, and `ModelError` naming the
    file that is missing or malformed.
    """
    config = read_json_object(files, "config.json")
    _check_encoder(config)
    pooling, normalize = _read_modules(files, config)
    _refuse_default_prompt(files)
    return ModelSpec(
        architecture="BertModel",
        pooling=pooling,
        normalize=normalize,
        max_sequence_length=_read_max_sequence_length(files, config),
        dimension=positive_int(config, "hidden_size"),
        precision=precision,
    )


def read_json_object(files: Mapping[str, Buffer], name: str, *, optional: bool = False) -> dict[str, Any]:
    """Parse one small configuration file; an absent optional one is empty. Raises `ModelError` naming the file."""
    if optional and name not in files:
        return {}
    value = _read_json(files, name)
    if not isinstance(value, dict):
        raise ModelError(f"{name} is not a JSON object", code="model.config")
    return value


def positive_int(config: Mapping[str, Any], key: str) -> int:
    """A size from config.json: an integer in 1 … 2^31-1. Raises `ModelError` naming the key."""
    value = config.get(key)
    if type(value) is not int or not 1 <= value < 1 << 31:
        raise ModelError(f"config.json: {key} is not a positive integer", code="model.config")
    return value


def _read_json(files: Mapping[str, Buffer], name: str) -> object:
    if name not in files:
        raise ModelError(f"the model has no {name}", code="model.missing")
    raw = files[name]
    if len(raw) > MAX_CONFIG_BYTES:
        raise ModelError(f"{name} is larger than {MAX_CONFIG_BYTES} bytes", code="model.config")
    try:
        return cast("object", json.loads(bytes(raw)))
    except (ValueError, RecursionError):
        raise ModelError(f"{name} is not valid JSON", code="model.config") from None


def _check_encoder(config: Mapping[str, Any]) -> None:
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or len(architectures) != 1:
        raise ModelError("config.json: architectures does not name one architecture", code="model.config")
    named = architectures[0]
    _require(isinstance(named, str) and named in ARCHITECTURES, "architecture", named)
    _require(config.get("model_type", "bert") == "bert", "model_type", config.get("model_type"))
    activation = config.get("hidden_act", "gelu")
    _require(isinstance(activation, str) and activation in ACTIVATIONS, "hidden_act", activation)
    positions = config.get("position_embedding_type", "absolute")
    _require(positions == "absolute", "position_embedding_type", positions)
    for flag in ("is_decoder", "add_cross_attention"):
        _require(not config.get(flag), flag, config.get(flag))


def _read_modules(files: Mapping[str, Buffer], config: Mapping[str, Any]) -> tuple[Pooling, bool]:
    if "modules.json" not in files:
        return "mean", False
    modules = _read_json(files, "modules.json")
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ModelError("modules.json is not a list of modules", code="model.config")
    # Only the class name is stable: sentence-transformers has moved the modules' packages between releases.
    kinds = [str(module.get("type")).rpartition(".")[2] for module in modules]
    _require(kinds in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]), "modules", kinds)
    paths = [module.get("path") for module in modules[:2]]
    _require(paths == ["", "1_Pooling"], "module folders", paths)
    return _read_pooling(files, config), len(kinds) == 3


def _read_pooling(files: Mapping[str, Buffer], config: Mapping[str, Any]) -> Pooling:
    name = "1_Pooling/config.json"
    pooling = read_json_object(files, name)
    dimension = pooling.get("word_embedding_dimension", pooling.get("embedding_dimension"))
    if dimension != config.get("hidden_size"):
        raise ModelError(f"{name}: the dimension is not config.json's hidden_size", code="model.config")
    modes: Sequence[object]
    if "pooling_mode" in pooling:
        mode = pooling["pooling_mode"]
        modes = mode if isinstance(mode, list) else [mode]
    else:
        flags = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
        modes = [flags.get(key, key) for key, on in pooling.items() if key.startswith("pooling_mode_") and on]
        modes = modes or ["mean"]
    _require(list(modes) in (["mean"], ["cls"]), "pooling", modes)
    return cast("Pooling", modes[0])


def _read_max_sequence_length(files: Mapping[str, Buffer], config: Mapping[str, Any]) -> int:
    positions = positive_int(config, "max_position_embeddings")
    limit = read_json_object(files, "sentence_bert_config.json", optional=True).get("max_seq_length")
    if limit is None:
        limit = read_json_object(files, "tokenizer_config.json", optional=True).get("model_max_length", positions)
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 1:
        raise ModelError("the maximum sequence length is not a positive number", code="model.config")
    return int(min(limit, positions))


def _refuse_default_prompt(files: Mapping[str, Buffer]) -> None:
    """A default prompt would be put before every text; leaving it out would silently give other vectors."""
    settings = read_json_object(files, "config_sentence_transformers.json", optional=True)
    name, prompts = settings.get("default_prompt_name"), settings.get("prompts")
    prompt = prompts.get(name) if isinstance(name, str) and isinstance(prompts, dict) else None
    _require(name is None or prompt == "", "default_prompt_name", name)


def _require(supported: bool, what: str, value: object) -> None:
    if not supported:
        code = f"model.unsupported.{what.replace(' ', '_')}"
        raise UnsupportedModelError(f"unsupported {what}: {value!r:.100}", code=code)

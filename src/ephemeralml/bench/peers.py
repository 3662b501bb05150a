"""What users would pick instead, given the same folder, the same texts and the same two threads.

Each peer is a function from texts to float32 vectors, tokenizing included, batching as its library does by default.
One that is not installed or does not work is absent with the reason: never a figure of zero.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from ephemeralml.bench.machine import THREADS
from ephemeralml.package.model import ModelSpec

Vectors: TypeAlias = npt.NDArray[np.float32]
Embed: TypeAlias = Callable[[Sequence[str]], Vectors]

INCUMBENT: Final = "sentence-transformers fp32"
PLAIN_ORT: Final = "ONNX Runtime plain fp32"
_BATCH: Final = 32
_EXPORT: Final = "model.onnx"
_FAMILY: Final = {"openvino fp32": "f32", "openvino bf16": "bf16"}


@dataclass(slots=True)
class Peers:
    """Those that run here, and why the others do not."""

    embed: dict[str, Embed] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Setting:
    """What every peer gets: the model's folder, how it pools, and a folder for files made on the way."""

    model: Path
    spec: ModelSpec
    scratch: Path

    def exported(self) -> Path:
        """A folder with the plain ONNX export, made by the first who asks, and copies of the model's small files."""
        folder = self.scratch / "export"
        if not (folder / _EXPORT).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            for path in self.model.iterdir():
                if path.suffix in {".json", ".txt"}:
                    shutil.copy(path, folder)
            _export(self.model, folder / _EXPORT)
        return folder


def load(setting: Setting, *, say: Callable[[str], None] = lambda _: None) -> Peers:
    """Load every peer, each tried with one text; those that fail are absent with their own words."""
    # None of them may look for anything elsewhere: the folder is all they get.
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    makers: dict[str, Callable[[Setting], Embed]] = {
        INCUMBENT: _sentence_transformers,
        PLAIN_ORT: _plain_ort,
        **{name: _openvino(hint) for name, hint in _FAMILY.items()},
        "fastembed fp32": _fastembed,
    }
    peers = Peers()
    for name, make in makers.items():
        say(f"loading {name}")
        try:
            embed = make(setting)
            embed(["one text"])
        # A peer may fail in any way of its own; that is then the reason.
        except Exception as error:  # noqa: BLE001
            peers.absent[name] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            continue
        peers.embed[name] = embed
    return peers


def _sentence_transformers(setting: Setting) -> Embed:
    import torch  # noqa: PLC0415
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415

    torch.set_num_threads(THREADS)
    _hush()
    model = SentenceTransformer(str(setting.model), device="cpu")
    return lambda texts: np.asarray(model.encode(list(texts), show_progress_bar=False), np.float32)


def _plain_ort(setting: Setting) -> Embed:
    """The export as a user would run it: default session options but for the number of threads."""
    import onnxruntime as ort  # noqa: PLC0415

    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = ort.InferenceSession(str(setting.exported() / _EXPORT), options, providers=["CPUExecutionProvider"])
    return _by_length(setting, lambda ids, mask: session.run(None, {"input_ids": ids, "attention_mask": mask})[0])


def _openvino(hint: str) -> Callable[[Setting], Embed]:
    def make(setting: Setting) -> Embed:
        import openvino as ov  # noqa: PLC0415

        core = ov.Core()
        if hint == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise RuntimeError("this CPU has no bf16 arithmetic")
        properties = {
            "INFERENCE_NUM_THREADS": THREADS, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": hint,
        }  # fmt: skip
        request = core.compile_model(str(setting.exported() / _EXPORT), "CPU", properties).create_infer_request()
        return _by_length(
            setting, lambda ids, mask: request.infer({"input_ids": ids, "attention_mask": mask}, share_inputs=True)[0]
        )

    return make


def _fastembed(setting: Setting) -> Embed:
    from fastembed import TextEmbedding  # noqa: PLC0415
    from fastembed.common.model_description import ModelSource, PoolingType  # noqa: PLC0415

    TextEmbedding.add_custom_model(
        model="local/model",
        pooling=PoolingType.MEAN if setting.spec.pooling == "mean" else PoolingType.CLS,
        normalization=setting.spec.normalize,
        sources=ModelSource(hf="local/model"),
        dim=setting.spec.dimension,
        model_file=_EXPORT,
    )
    model = TextEmbedding("local/model", specific_model_path=str(setting.exported()), threads=THREADS)
    return lambda texts: np.array(list(model.embed(list(texts))), np.float32)


def _by_length(setting: Setting, hidden: Callable[[Any, Any], Any]) -> Embed:
    """Tokenize, batches of 32 of like length, pool and normalise: what sentence-transformers does around its model."""
    tokenizer = Tokenizer.from_file(str(setting.model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(setting.spec.max_sequence_length)

    def embed(texts: Sequence[str]) -> Vectors:
        ids = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
        out = np.empty((len(ids), setting.spec.dimension), np.float32)
        order = sorted(range(len(ids)), key=lambda index: -len(ids[index]))
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            padded = np.zeros((len(rows), len(ids[rows[0]])), np.int64)
            mask = np.zeros_like(padded)
            for row, index in enumerate(rows):
                padded[row, : len(ids[index])] = ids[index]
                mask[row, : len(ids[index])] = 1
            states = hidden(padded, mask)
            if setting.spec.pooling == "cls":
                pooled = states[:, 0]
            else:
                weights = mask.astype(np.float32)
                pooled = np.einsum("bsh,bs->bh", states, weights) / weights.sum(1, keepdims=True)
            if setting.spec.normalize:
                pooled = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
            out[rows] = pooled
        return out

    return embed


def _hush() -> None:
    """No progress bars between our own lines."""
    from transformers.utils import logging  # noqa: PLC0415

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _export(model: Path, path: Path) -> None:
    """torch.onnx's export of the folder's BertModel: plain ONNX operators, token states as the only output."""
    import torch  # noqa: PLC0415
    from transformers import AutoModel  # noqa: PLC0415

    _hush()
    inner = AutoModel.from_pretrained(str(model), attn_implementation="eager").eval()

    class States(torch.nn.Module):  # type: ignore[misc]  # Any where torch is not installed
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, ids: Any, mask: Any) -> Any:
            return self.inner(input_ids=ids, attention_mask=mask).last_hidden_state

    example = torch.ones(2, 16, dtype=torch.long)
    axes = {0: "texts", 1: "tokens"}
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter warns of its own age and of every constant it folds.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            States(),
            (example, example),
            str(path),
            input_names=["input_ids", "attention_mask"],
            output_names=["last_hidden_state"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "last_hidden_state": axes},
            opset_version=17,
            dynamo=False,
        )

"""Fixtures every part shares: the third-party and golden vectors, where they are present, and a tiny model."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from ephemeralml.errors import ImageError
from ephemeralml.image import debian, wheels
from ephemeralml.image.enclave import Recipe

# How long a machine takes is no property of the code.
settings.register_profile("ephemeralml", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ephemeralml")

_VECTORS = Path(os.environ.get("EPHEMERALML_VECTORS", Path(__file__).parents[2] / "shared" / "vectors"))


def _folder(path: Path) -> Path:
    if not path.is_dir():
        pytest.skip(f"third-party data missing: {path} (set EPHEMERALML_VECTORS)")
    return path


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of data nobody of this project wrote."""
    return _folder(_VECTORS)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Texts and their embeddings by sentence-transformers."""
    return _folder(_VECTORS.parent / "golden")


@pytest.fixture(scope="session")
def image_cache() -> Path:
    """The cache of packages, with all in it that the recipe of the enclave's image names."""
    recipe, folder = Recipe.load(Path(__file__).parents[1] / "deploy" / "image"), debian.cache_folder()
    try:
        debian.fetch(recipe.packages, cache=folder / "debs")
        wheels.fetch(recipe.wheels, cache=folder / "wheels")
    except (ImageError, OSError) as error:
        pytest.skip(f"THE ENCLAVE'S IMAGE IS NOT TESTED: a package of its recipe cannot be fetched: {error}")
    return folder


_TOKENS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *"abcdefghijklmnopqrstuvwxyz.,!?",
    *map("##{}".format, "aeiours"),
]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random two-layer BERT, as sentence-transformers writes it; 32 dimensions, 48 tokens."""
    hidden, inner, limit = 32, 64, 48
    rng = np.random.default_rng(7)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(_TOKENS), hidden),
        "embeddings.position_embeddings.weight": (limit, hidden),
        "embeddings.token_type_embeddings.weight": (2, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
    }
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        for name, outputs, inputs in (
            *((f"attention.self.{part}", hidden, hidden) for part in ("query", "key", "value")),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", inner, hidden),
            ("output.dense", hidden, inner),
        ):
            shapes |= {f"{layer}.{name}.weight": (outputs, inputs), f"{layer}.{name}.bias": (outputs,)}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{layer}.{name}.weight": (hidden,), f"{layer}.{name}.bias": (hidden,)}
    header: dict[str, object] = {}
    weights = b""
    for name, shape in shapes.items():
        values = rng.normal(0, 0.3, shape).astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(weights), len(weights) + len(values)]}
        weights += values
    # Padded, as the library does, so that the data is aligned.
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)

    tokenizer = Tokenizer(models.WordPiece({token: index for index, token in enumerate(_TOKENS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    files: dict[str, object] = {
        "config.json": {
            "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "hidden_size": hidden,
            "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": inner, "layer_norm_eps": 1e-12,
            "vocab_size": len(_TOKENS), "max_position_embeddings": limit, "type_vocab_size": 2,
        },
        "modules.json": [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds],
        "1_Pooling/config.json": {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True},
        "sentence_bert_config.json": {"max_seq_length": limit, "do_lower_case": False},
        "tokenizer.json": json.loads(tokenizer.to_str()),
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("model")
    (folder / "1_Pooling").mkdir()
    for path, content in files.items():
        (folder / path).write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + weights)
    return folder

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import ModelError, UnsupportedModelError
from ephemeralml.package.model import CONFIG_FILES, MAX_CONFIG_BYTES, ModelSpec, read_model_spec

CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 384,
    "max_position_embeddings": 512,
}
POOLING = {"word_embedding_dimension": 384, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]


def folder(**changes: Any) -> dict[str, bytes]:
    """A valid folder's configs; a keyword replaces a file's content, or with None removes it."""
    files: dict[str, Any] = {
        "config": CONFIG,
        "modules": MODULES,
        "pooling": POOLING,
        "sentence": {"max_seq_length": 256, "do_lower_case": False},
        "tokenizer": {"model_max_length": 300},
        "settings": {"prompts": {"query": "", "document": ""}, "default_prompt_name": None},
    }
    names = dict(
        zip(("config", "modules", "pooling", "sentence", "tokenizer", "settings"), CONFIG_FILES, strict=True),
    )
    files |= changes
    return {names[key]: json.dumps(value).encode() for key, value in files.items() if value is not None}


def test_reads_minilm() -> None:
    assert read_model_spec(folder()) == ModelSpec(
        architecture="BertModel", pooling="mean", normalize=True, max_sequence_length=256, dimension=384
    )


def test_accepts_any_buffer() -> None:
    assert read_model_spec({name: memoryview(bytearray(raw)) for name, raw in folder().items()}).dimension == 384


def test_defaults_of_a_plain_transformer_folder() -> None:
    spec = read_model_spec({"config.json": json.dumps(CONFIG).encode()})
    assert (spec.pooling, spec.normalize, spec.max_sequence_length) == ("mean", False, 512)


@pytest.mark.parametrize("named", ["BertModel", "BertForMaskedLM", "BertForPreTraining"])
def test_only_the_encoder_counts(named: str) -> None:
    assert read_model_spec(folder(config=CONFIG | {"architectures": [named]})).architecture == "BertModel"


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"word_embedding_dimension": 384, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"embedding_dimension": 384, "pooling_mode": "cls", "include_prompt": True}, "cls"),
        ({"embedding_dimension": 384, "pooling_mode": ["mean"]}, "mean"),
        ({"embedding_dimension": 384}, "mean"),
    ],
)
def test_old_and_new_pooling_files(pooling: dict[str, Any], expected: str) -> None:
    assert read_model_spec(folder(pooling=pooling)).pooling == expected


def test_modules_moved_to_other_packages_and_no_normalize() -> None:
    modules = [
        {"path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling"},
    ]
    assert not read_model_spec(folder(modules=modules)).normalize


@pytest.mark.parametrize(
    ("sentence", "tokenizer", "expected"),
    [
        ({"max_seq_length": 128}, {"model_max_length": 300}, 128),
        ({"max_seq_length": 1024}, None, 512),
        ({"max_seq_length": None}, {"model_max_length": 300}, 300),
        (None, {"model_max_length": 1e30}, 512),
        (None, {"model_max_length": 10**30}, 512),
        (None, {}, 512),
        (None, None, 512),
    ],
)
def test_maximum_sequence_length(sentence: Any, tokenizer: Any, expected: int) -> None:
    assert read_model_spec(folder(sentence=sentence, tokenizer=tokenizer)).max_sequence_length == expected


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"config": CONFIG | {"architectures": ["RobertaModel"]}}, "architecture", "RobertaModel"),
        ({"config": CONFIG | {"architectures": ["BertForSequenceClassification"]}}, "architecture", "Sequence"),
        ({"config": CONFIG | {"architectures": [["BertModel"]]}}, "architecture", "BertModel"),
        ({"config": CONFIG | {"model_type": "nomic_bert"}}, "model_type", "nomic_bert"),
        ({"config": CONFIG | {"hidden_act": "silu"}}, "hidden_act", "silu"),
        ({"config": CONFIG | {"hidden_act": {}}}, "hidden_act", "{}"),
        ({"config": CONFIG | {"position_embedding_type": "relative_key"}}, "position_embedding_type", "relative_key"),
        ({"config": CONFIG | {"is_decoder": True}}, "is_decoder", "True"),
        ({"config": CONFIG | {"add_cross_attention": True}}, "add_cross_attention", "True"),
        ({"config": CONFIG | {"hidden_size": 10**6}, "modules": None}, "dimension", "1000000"),
        ({"sentence": {"max_seq_length": 2}}, "sequence_length", "2"),
        ({"modules": [*MODULES[:2], {"path": "2_Dense", "type": "x.Dense"}]}, "modules", "Dense"),
        ({"modules": MODULES[:1]}, "modules", "Transformer"),
        ({"modules": [MODULES[0] | {"path": "0_T"}, *MODULES[1:]]}, "module_folders", "0_T"),
        ({"pooling": POOLING | {"pooling_mode_cls_token": True}}, "pooling", "cls"),
        ({"pooling": POOLING | {"pooling_mode_max_tokens": True}}, "pooling", "max_tokens"),
        ({"pooling": {"word_embedding_dimension": 384, "pooling_mode": "lasttoken"}}, "pooling", "lasttoken"),
        (
            {"settings": {"prompts": {"query": "query: "}, "default_prompt_name": "query"}},
            "default_prompt_name",
            "query",
        ),
    ],
)
def test_refuses_by_name(change: dict[str, Any], code: str, named: str) -> None:
    with pytest.raises(UnsupportedModelError, match=named) as caught:
        read_model_spec(folder(**change))
    assert caught.value.code == f"model.unsupported.{code}"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"config": None}, "config.json"),
        ({"config": []}, "config.json"),
        ({"config": CONFIG | {"architectures": "BertModel"}}, "architectures"),
        ({"config": CONFIG | {"architectures": []}}, "architectures"),
        ({"config": CONFIG | {"hidden_size": True}, "modules": None}, "hidden_size"),
        ({"config": CONFIG | {"max_position_embeddings": -1}}, "max_position_embeddings"),
        ({"modules": {}}, "modules.json"),
        ({"modules": [1]}, "modules.json"),
        ({"pooling": None}, "1_Pooling/config.json"),
        ({"pooling": POOLING | {"word_embedding_dimension": 768}}, "dimension"),
        ({"sentence": {"max_seq_length": "256"}}, "sequence length"),
        ({"sentence": {"max_seq_length": True}}, "sequence length"),
        ({"sentence": {"max_seq_length": 0}}, "sequence length"),
    ],
)
def test_malformed_files_are_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        read_model_spec(folder(**change))


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 100_000, b" " * MAX_CONFIG_BYTES + b"{}"])
def test_not_json(raw: bytes) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        read_model_spec(folder() | {"config.json": raw})


@pytest.mark.parametrize("change", [{"architecture": "X"}, {"pooling": "max"}, {"precision": "fp16"}, {"dimension": 0}])
def test_spec_of_a_newer_release_is_refused(change: dict[str, Any]) -> None:
    good: dict[str, Any] = {
        "architecture": "BertModel", "pooling": "cls", "normalize": True, "max_sequence_length": 512, "dimension": 8,
    }  # fmt: skip
    ModelSpec(**good)
    with pytest.raises(UnsupportedModelError):
        ModelSpec(**good | change)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.sampled_from(("config", "modules", "pooling", "sentence", "tokenizer", "settings")),
    st.sampled_from((*CONFIG, *POOLING, "max_seq_length", "model_max_length", "default_prompt_name", "prompts", "0")),
    JSON,
)
def test_any_json_ends_in_a_spec_or_a_model_error(file: str, key: str, value: object) -> None:
    base: dict[str, object] = {"config": CONFIG, "pooling": POOLING}.get(file, {})  # type: ignore[assignment]
    for content in (base | {key: value}, value, [*MODULES[:1], value]):
        try:
            spec = read_model_spec(folder(**{file: content}))
        except ModelError:
            continue
        assert 3 <= spec.max_sequence_length <= 8192

"""A long text is read only as far as the model does, and gets the same tokens as if it were read whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as FastTokenizer

from ephemeralml.inference.tokenizer import Tokenizer

_LENGTH = 12
_VOCAB = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "<longer added token>",
    *"abcde.,!-中文字",
    "##a",
    "##b",
    "##cd",
]


def fast(*, normalizer: Any, pre_tokenizer: Any, **loose: bool) -> FastTokenizer:
    tokenizer = FastTokenizer(models.WordPiece({token: i for i, token in enumerate(_VOCAB)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(["[MASK]"])
    tokenizer.add_tokens([AddedToken("<longer added token>", **{"normalized": False, **loose})])
    return tokenizer


def bert(**loose: bool) -> FastTokenizer:
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    return fast(normalizer=normalizer, pre_tokenizer=splitter, **loose)


BERT = bert()
OTHERS = [
    BERT,
    fast(normalizer=normalizers.BertNormalizer(lowercase=False), pre_tokenizer=pre_tokenizers.BertPreTokenizer()),
    fast(normalizer=normalizers.NFC(), pre_tokenizer=pre_tokenizers.Whitespace()),
    fast(
        normalizer=normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]),
        pre_tokenizer=pre_tokenizers.WhitespaceSplit(),
    ),
    # From here on what follows may change a word, however far away: nothing is cut.
    fast(normalizer=normalizers.Strip(), pre_tokenizer=pre_tokenizers.WhitespaceSplit()),
    fast(normalizer=None, pre_tokenizer=None),
    fast(normalizer=None, pre_tokenizer=pre_tokenizers.Split(Regex("'[^']*'|."), "isolated")),
    *(bert(**{flag: True}) for flag in ("normalized", "lstrip", "rstrip", "single_word")),
]


def ours(tokenizer: FastTokenizer) -> Tokenizer:
    files = {"tokenizer.json": tokenizer.to_str().encode()}
    return Tokenizer(files, max_length=_LENGTH, vocab_size=len(_VOCAB))


PIECES = st.sampled_from(
    [
        *("a", "b", "cd", "abcd", "z", " ", "  ", "\n", "\t", ".", ",", "!", "-", "中", "文", "\u0301", "É", "ﬁ"),
        *("[MASK]", "[MA", "<longer added token>", "<longer ", "added", "a" * 90, "中文字" * 8, "\U0001f600"),
        *("\u200d", "\u1112\u1161"),
    ]
)


@given(st.lists(PIECES, max_size=200).map("".join), st.integers(0, len(OTHERS) - 1))
@settings(max_examples=400)
def test_tokens_are_those_of_the_whole_text(text: str, number: int) -> None:
    whole = FastTokenizer.from_str(OTHERS[number].to_str())
    whole.enable_truncation(_LENGTH)
    assert ours(OTHERS[number])([text]) == [whole.encode(text).ids]


def test_what_vanishes_between_the_words_of_an_added_token_does_not_hide_it() -> None:
    text = "a <longer" + "\x01" * 500 + " added token> " + "b " * 50
    for tokenizer in (BERT, bert(normalized=True)):
        whole = FastTokenizer.from_str(tokenizer.to_str())
        whole.enable_truncation(_LENGTH)
        assert ours(tokenizer)([text]) == [whole.encode(text).ids]


@pytest.mark.parametrize("text", ["中文" * 40_000, "a.b/" * 20_000, "abc " * 20_000], ids=["CJK", "a path", "prose"])
def test_a_long_text_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    tokenizer = ours(BERT)
    read: list[int] = []

    class Counting:
        def encode_batch(self, parts: list[str]) -> Any:
            read.extend(map(len, parts))
            return BERT_TRUNCATED.encode_batch(parts)

    monkeypatch.setattr(tokenizer, "_tokenizer", Counting())
    assert tokenizer([text]) == [BERT_TRUNCATED.encode(text).ids]
    assert sum(read) < 50 * _LENGTH


BERT_TRUNCATED = FastTokenizer.from_str(json.dumps(json.loads(BERT.to_str())))
BERT_TRUNCATED.enable_truncation(_LENGTH)

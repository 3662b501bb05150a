"""Texts to token ids, exactly as sentence-transformers does, but never padded here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Encoding, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as FastTokenizer

from ephemeralml.errors import ModelError
from ephemeralml.package.model import Buffer, read_json_object
from ephemeralml.texts import check_texts

# Twice what prose needs; a text is read further only when that many give too few tokens.
_CHARACTERS_PER_TOKEN = 8
# These look no further than a character and its neighbour: what follows a whole word cannot change it.
_LOCAL = frozenset(
    {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"}
    | {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
)


class Tokenizer:
    """A folder's tokenizer, from tokenizer.json or else vocab.txt, truncating at `max_length` tokens. Thread-safe.

    Raises `ModelError` for files that are missing or malformed, or when tokens lie outside `vocab_size`.
    """

    def __init__(self, files: Mapping[str, Buffer], *, max_length: int, vocab_size: int) -> None:
        try:
            tokenizer = _read_tokenizer(files)
        except ModelError:
            raise
        # The library raises bare exceptions of its own for what it cannot read.
        except Exception:  # noqa: BLE001
            raise ModelError("the tokenizer's files are malformed", code="model.tokenizer") from None
        # Published tokenizer.json files carry a padding and a truncation of their own, often to 128 tokens.
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length)
        if max(tokenizer.get_vocab(with_added_tokens=True).values(), default=vocab_size) >= vocab_size:
            raise ModelError(
                "the tokenizer has tokens that the model's vocab_size does not cover", code="model.tokenizer"
            )
        if not tokenizer.encode("").ids:
            raise ModelError("the tokenizer adds no special tokens", code="model.tokenizer")
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._may_cut = _is_local(tokenizer)
        # An added token is matched before words are split: one may begin that far before a cut.
        self._margin = max((len(token.content) for token in tokenizer.get_added_tokens_decoder().values()), default=1)

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included. Raises `RequestError` for what is not Unicode text."""
        return [self._ids(text) for text in check_texts(texts)]

    def _ids(self, text: str) -> list[int]:
        """Tokens of a prefix that fills the model, where the rest cannot change them: a long text costs little more."""
        size = _CHARACTERS_PER_TOKEN * self._max_length
        while self._may_cut and size < len(text):
            # The batch forms give up the interpreter's lock: one long text must not stop every connection.
            [encoding] = self._tokenizer.encode_batch([text[:size]])
            if self._is_settled(encoding, size):
                break
            size *= 4
        else:
            [encoding] = self._tokenizer.encode_batch_fast([text])
        ids: list[int] = encoding.ids
        return ids

    def _is_settled(self, prefix: Encoding, size: int) -> bool:
        """Whether the tokens kept end with a whole word, well before the cut: splitting looks no further than that."""
        if not prefix.overflowing:
            return False
        kept, end = _last_word(prefix)
        return _last_word(prefix.overflowing[-1])[0] > kept and end + self._margin <= size


def _is_local(tokenizer: FastTokenizer) -> bool:
    """Whether a word's tokens depend on that word alone."""
    added = tokenizer.get_added_tokens_decoder().values()
    if any(token.normalized or token.lstrip or token.rstrip or token.single_word for token in added):
        return False
    kinds: list[str] = []
    for component in (tokenizer.normalizer, tokenizer.pre_tokenizer):
        state = json.loads(component.__getstate__()) if component is not None else {}
        parts = state.get("normalizers") or state.get("pretokenizers") or [state]
        kinds += [part.get("type", "") for part in parts if part]
    return _LOCAL.issuperset(kinds)


def _last_word(encoding: Encoding) -> tuple[int, int]:
    """The number of the last token's word, and where in the text that token ends; special tokens have no word."""
    tokens = zip(reversed(encoding.word_ids), reversed(encoding.offsets), strict=True)
    return next(((word, end) for word, (_, end) in tokens if word is not None), (-1, 0))


def _read_tokenizer(files: Mapping[str, Buffer]) -> FastTokenizer:
    if "tokenizer.json" in files:
        tokenizer = FastTokenizer.from_buffer(bytes(files["tokenizer.json"]))
    elif "vocab.txt" in files:
        settings = read_json_object(files, "tokenizer_config.json", optional=True)
        tokenizer = _word_piece(bytes(files["vocab.txt"]).decode(), settings)
    else:
        raise ModelError("the model has neither tokenizer.json nor vocab.txt", code="model.missing")
    # BGE's folders ask for lower case here too; doing it twice changes nothing.
    if read_json_object(files, "sentence_bert_config.json", optional=True).get("do_lower_case"):
        following = [tokenizer.normalizer] if tokenizer.normalizer is not None else []
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *following])
    return tokenizer


def _word_piece(vocabulary: str, settings: Mapping[str, Any]) -> FastTokenizer:
    vocab = {token: index for index, token in enumerate(vocabulary.splitlines())}
    special = ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")
    if not vocab.keys() >= set(special):
        raise ModelError("vocab.txt lacks BERT's special tokens", code="model.tokenizer")
    tokenizer = FastTokenizer(models.WordPiece(vocab, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    tokenizer.add_special_tokens(list(special))
    return tokenizer

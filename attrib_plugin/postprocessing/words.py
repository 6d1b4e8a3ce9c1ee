"""From sub-word tokens to words, by where each token stands in the text."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from attrib_plugin.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class TextToken:
    """One token of a text.

    Attributes:
        piece: The token as the vocabulary writes it.
        start: First character of the text that it covers.
        end: Character after the last one.
        is_special: Whether it stands for no text (class, separator, padding).
    """

    piece: str
    start: int
    end: int
    is_special: bool = False


@dataclass(frozen=True)
class Word:
    """A word of a text and the tokens that it was cut into.

    Attributes:
        text: The word as it is written.
        start: Its first character.
        end: The character after its last one.
        tokens: Indices of its tokens.
    """

    text: str
    start: int
    end: int
    tokens: tuple[int, ...]


def encode_text(tokenizer: Any, text: str) -> tuple[Tensor, list[TextToken], dict[str, Tensor]]:
    """Cut a text into tokens and keep where each one stands.

    Args:
        tokenizer: A fast transformers tokenizer, or a ``sentencepiece.SentencePieceProcessor``.
        text: The text.

    Returns:
        Token ids (1,T); the tokens; further keyword inputs of the model, such as ``attention_mask`` (1,T).

    Raises:
        InputError: If the text is empty, or the tokenizer does not say where tokens stand.
    """
    if not text.strip():
        raise InputError("The text is empty: there is no word to explain.")
    if type(tokenizer).__name__ == "SentencePieceProcessor":
        return _encode_by_sentencepiece(tokenizer, text)
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"{type(tokenizer).__name__} does not say where tokens stand in the text. Expected a fast transformers "
            "tokenizer or a sentencepiece.SentencePieceProcessor."
        )
    encoded = tokenizer(text, return_tensors="pt", return_offsets_mapping=True, return_special_tokens_mask=True)
    spans = encoded.pop("offset_mapping")[0].tolist()
    special = encoded.pop("special_tokens_mask")[0].tolist()
    ids = encoded.pop("input_ids")
    pieces = tokenizer.convert_ids_to_tokens(ids[0].tolist())
    tokens = [
        TextToken(piece, start, end, bool(is_special))
        for piece, (start, end), is_special in zip(pieces, spans, special, strict=True)
    ]
    return ids, tokens, dict(encoded)


def group_words(text: str, tokens: Sequence[TextToken]) -> list[Word]:
    """Group tokens into words.

    Neighbouring tokens belong to one word if they share a character, or if nothing stands between them and a letter
    or digit meets a letter or digit, or if a cut would split one visible sign (a letter and its accent, an emoji of
    several characters, a flag). Scripts without spaces (Chinese, Japanese, Thai ...) keep their tokens apart,
    and so do punctuation marks. Only positions are looked at, never marks such as ``##`` or ``▁``.

    Args:
        text: The text.
        tokens: Its tokens, in order; special ones belong to no word.

    Returns:
        The words, in order. A token that covers nothing (an empty piece) joins the word after it.
    """
    groups: list[tuple[list[int], int, int]] = []
    waiting: list[int] = []
    for index, token in enumerate(tokens):
        start, end = _trimmed(text, token)
        if token.is_special:
            continue
        if start >= end:
            waiting.append(index)
        elif groups and not waiting and _same_word(text, groups[-1][2], start):
            members, first, last = groups[-1]
            groups[-1] = ([*members, index], first, max(last, end))
        else:
            groups.append(([*waiting, index], start, end))
            waiting = []
    if waiting and groups:
        members, first, last = groups[-1]
        groups[-1] = ([*members, *waiting], first, last)
    return [Word(text[start:end], start, end, tuple(members)) for members, start, end in groups]


def merge_words(
    relevance: Float[Tensor, " token"], words: Sequence[Word], how: Literal["sum", "mean", "max"] = "sum"
) -> Float[Tensor, " word"]:
    """Relevance of words from relevance of tokens.

    Args:
        relevance: One value a token.
        words: Words as :func:`group_words` gives them.
        how: ``"sum"`` keeps the total; ``"mean"`` and ``"max"`` do not favour words of many tokens. ``"max"`` takes
            the value that is largest in size, with its sign.

    Returns:
        One value a word, in the units of ``relevance``.

    Raises:
        ValueError: If ``how`` is unknown.
    """
    if how not in ("sum", "mean", "max"):
        raise ValueError(f"how must be 'sum', 'mean' or 'max', not {how!r}.")
    merged = relevance.new_zeros(len(words))
    for number, word in enumerate(words):
        values = relevance[list(word.tokens)]
        merged[number] = values[values.abs().argmax()] if how == "max" else getattr(values, how)()
    return merged


def _encode_by_sentencepiece(processor: Any, text: str) -> tuple[Tensor, list[TextToken], dict[str, Tensor]]:
    # Releases differ in the call's name, and in whether positions are bytes or characters; surfaces are the same.
    encode = getattr(processor, "encode_as_proto", None) or processor.encode_as_immutable_proto
    tokens, ids, position = [], [], 0
    for piece in encode(text).pieces:
        end = position + len(piece.surface)
        tokens.append(TextToken(piece.piece, position, end))
        ids.append(piece.id)
        position = end
    return torch.tensor([ids]), tokens, {}


def _trimmed(text: str, token: TextToken) -> tuple[int, int]:
    start, end = token.start, token.end
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    # Accents that the tokenizer dropped still belong to their letter.
    while start < end < len(text) and _same_sign(text, end):
        end += 1
    return start, end


def _same_word(text: str, end: int, start: int) -> bool:
    if start < end:
        return True
    if start > end:
        return False
    return _same_sign(text, end) or (_is_joining(text[end - 1]) and _is_joining(text[start]))


_JOINER = "\u200d"
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_FLAG_LETTERS = range(0x1F1E6, 0x1F200)


def _same_sign(text: str, place: int) -> bool:
    """Whether a cut would split what readers see as one sign: a letter and its accent, an emoji of several, a flag."""
    before, after = text[place - 1], text[place]
    if unicodedata.category(after)[0] == "M" or _JOINER in (before, after) or ord(after) in _SKIN_TONES:
        return True
    start = place
    while start > 0 and ord(text[start - 1]) in _FLAG_LETTERS:
        start -= 1
    # Flags are pairs of letters, so only after an odd number of them the next one belongs to the same flag.
    return ord(after) in _FLAG_LETTERS and (place - start) % 2 == 1


_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


def _is_joining(character: str) -> bool:
    is_letter_or_mark = unicodedata.category(character)[0] in "LMN"
    return is_letter_or_mark and not unicodedata.name(character, "").startswith(_UNSPACED)

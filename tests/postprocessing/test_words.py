from itertools import pairwise

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from attrib_plugin.errors import InputError
from attrib_plugin.postprocessing import TextToken, encode_text, group_words, merge_words


def tokens_at(text, *pieces):
    """Tokens for pieces in the order in which they stand in the text."""
    tokens, position = [], 0
    for piece in pieces:
        start = text.index(piece, position)
        position = start + len(piece)
        tokens.append(TextToken(piece, start, position))
    return tokens


def words_of(text, *pieces):
    return [(word.text, word.tokens) for word in group_words(text, tokens_at(text, *pieces))]


def test_pieces_of_a_word_are_joined_and_punctuation_stands_apart():
    words = words_of("unbelievably good!", "un", "believ", "ably", "good", "!")

    assert words == [("unbelievably", (0, 1, 2)), ("good", (3,)), ("!", (4,))]


def test_pieces_that_carry_their_leading_space_begin_a_new_word():
    words = words_of("a good film", "a", " good", " fi", "lm")

    assert words == [("a", (0,)), ("good", (1,)), ("film", (2, 3))]


def test_cyrillic_words_are_joined():
    words = words_of("Мама мыла раму", "Мама", "мы", "ла", "рам", "у")

    assert words == [("Мама", (0,)), ("мыла", (1, 2)), ("раму", (3, 4))]


def test_scripts_without_spaces_keep_their_tokens():
    words = words_of("我喜欢电影", "我", "喜欢", "电影")

    assert words == [("我", (0,)), ("喜欢", (1,)), ("电影", (2,))]


def test_tokens_that_share_one_character_are_one_word():
    text = "ok 🎬!"
    tokens = [TextToken("ok", 0, 2), *(TextToken(byte, 3, 4) for byte in "abc"), TextToken("!", 4, 5)]

    words = group_words(text, tokens)

    assert [(word.text, word.tokens) for word in words] == [("ok", (0,)), ("🎬", (1, 2, 3)), ("!", (4,))]


def test_combining_marks_stay_with_their_letter():
    text = "cafe\u0301"

    words = group_words(text, [TextToken("cafe", 0, 4), TextToken("\u0301", 4, 5)])

    assert [word.tokens for word in words] == [(0, 1)]


@pytest.mark.parametrize(
    ("sign", "cuts"),
    [
        ("\U0001f469\u200d\U0001f467", (1, 2)),
        ("\u2764\ufe0f", (1,)),
        ("\U0001f44d\U0001f3fd", (1,)),
        ("\U0001f1e9\U0001f1ea", (1,)),
        ("1\ufe0f\u20e3", (1, 2)),
        ("か\u3099", (1,)),
    ],
)
def test_what_readers_see_as_one_sign_is_not_cut(sign, cuts):
    text = f"a {sign} b"
    borders = [2, *(2 + cut for cut in cuts), 2 + len(sign)]
    tokens = [TextToken("", start, end) for start, end in pairwise(borders)]

    words = group_words(text, tokens)

    assert [word.text for word in words] == [sign]


def test_two_flags_are_two_words():
    text = "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7"

    words = group_words(text, [TextToken("", i, i + 1) for i in range(4)])

    assert [word.tokens for word in words] == [(0, 1), (2, 3)]


def test_special_tokens_belong_to_no_word():
    tokens = [TextToken("[CLS]", 0, 0, True), TextToken("fine", 0, 4), TextToken("[SEP]", 0, 0, True)]

    words = group_words("fine", tokens)

    assert [word.tokens for word in words] == [(1,)]


def test_a_piece_that_covers_nothing_joins_the_word_after_it():
    tokens = [TextToken("▁", 0, 0), TextToken("fine", 0, 4), TextToken("▁", 4, 5), TextToken("day", 5, 8)]

    words = group_words("fine day", tokens)

    assert [word.tokens for word in words] == [(0, 1), (2, 3)]


def test_every_token_with_text_is_in_exactly_one_word():
    text = "Don't re-watch it, it's 10,000 hours\tlong…"
    tokens = [TextToken(character, i, i + 1) for i, character in enumerate(text) if not character.isspace()]

    words = group_words(text, tokens)

    assert sorted(index for word in words for index in word.tokens) == list(range(len(tokens)))
    assert "".join(word.text for word in words) == "".join(text.split())


@pytest.mark.parametrize(("how", "expected"), [("sum", [-1.0, 4.0]), ("mean", [-1 / 3, 4.0]), ("max", [-3.0, 4.0])])
def test_relevance_of_words_is_merged_from_their_tokens(how, expected):
    words = group_words("abc d", tokens_at("abc d", "a", "b", "c", "d"))

    merged = merge_words(torch.tensor([2.0, -3.0, 0.0, 4.0]), words, how)

    torch.testing.assert_close(merged, torch.tensor(expected), rtol=0, atol=1e-6)


def test_an_unknown_way_of_merging_is_refused():
    with pytest.raises(ValueError, match="'sum', 'mean' or 'max'"):
        merge_words(torch.zeros(1), [], "median")


def test_a_sum_over_words_is_the_sum_over_their_tokens():
    text = "unbelievably good!"
    words = group_words(text, tokens_at(text, "un", "believ", "ably", "good", "!"))
    relevance = torch.randn(5)

    torch.testing.assert_close(merge_words(relevance, words).sum(), relevance.sum())


@pytest.fixture(scope="module")
def byte_level_tokenizer():
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False, initial_alphabet=alphabet)
    backend.train_from_iterator(["a small film about love", "the smallest films"] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_a_byte_level_tokenizer_gives_whole_words_emoji_included(byte_level_tokenizer):
    text = "a film 🎬, 'love' ещё"

    ids, tokens, _ = encode_text(byte_level_tokenizer, text)

    assert ids.shape == (1, len(tokens))
    assert [word.text for word in group_words(text, tokens)] == ["a", "film", "🎬", ",", "'", "love", "'", "ещё"]


def test_a_sentencepiece_model_file_is_read(sentencepiece_model):
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_model))
    text = "Unquestionably, he ran  away. Ещё 🎬"

    ids, tokens, keywords = encode_text(processor, text)

    assert ids.tolist() == [processor.encode(text)]
    assert keywords == {}
    assert [word.text for word in group_words(text, tokens)] == [
        "Unquestionably",
        ",",
        "he",
        "ran",
        "away",
        ".",
        "Ещё",
        "🎬",
    ]
    assert len(tokens) > len(group_words(text, tokens))


def test_an_empty_text_is_refused(byte_level_tokenizer):
    with pytest.raises(InputError, match="empty"):
        encode_text(byte_level_tokenizer, " \n")


def test_a_tokenizer_without_positions_is_refused():
    with pytest.raises(InputError, match="does not say where tokens stand"):
        encode_text(object(), "text")


TEXTS = [
    "Don't  re-watch\tit",
    "Мама мыла раму, ещё!",
    "我喜欢 电影。",
    "ok 🎬👩\u200d👧 end",
    "cafe\u0301 naïve",
    " a\n\nb ",
]


@pytest.fixture(scope="module")
def metaspace_tokenizer():
    backend = Tokenizer(
        models.Unigram([("<unk>", 0.0), ("▁", -2.0), ("▁fil", -1.0), ("m", -1.0), ("▁a", -1.0)], unk_id=0)
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


@pytest.fixture(scope="module")
def wordpiece_tokenizer():
    from attrib_plugin.app import bundled

    return bundled.load("sentiment").tokenizer


@pytest.mark.parametrize("kind", ["wordpiece_tokenizer", "byte_level_tokenizer", "metaspace_tokenizer"])
@pytest.mark.parametrize("text", TEXTS)
def test_words_of_any_tokenizer_cover_the_text_and_never_cut_its_own_pieces(kind, text, request):
    tokenizer = request.getfixturevalue(kind)

    _, tokens, _ = encode_text(tokenizer, text)
    words = group_words(text, tokens)

    assert "".join("".join(word.text for word in words).split()) == "".join(text.split())
    assert all(before.end <= after.start for before, after in pairwise(words))
    real = [index for index, token in enumerate(tokens) if not token.is_special]
    assert sorted(index for word in words for index in word.tokens) == real


def test_pieces_of_one_word_by_the_tokenizers_own_account_stay_together(wordpiece_tokenizer):
    text = "An unwatchable melodrama, isn't it?"

    ids = wordpiece_tokenizer(text).word_ids()
    _, tokens, _ = encode_text(wordpiece_tokenizer, text)
    words = group_words(text, tokens)

    own = [
        tuple(i for i, one in enumerate(ids) if one == number) for number in sorted({i for i in ids if i is not None})
    ]
    assert [word.tokens for word in words] == own

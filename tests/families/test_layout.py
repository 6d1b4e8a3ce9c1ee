"""What tokens mean: read-out weights, prefix, grid and padding, from the family or from the user."""

import pytest
import torch
from tiny_models import FAMILIES, tiny_input, tiny_model
from torch import nn
from torch.testing import assert_close

from attrib_plugin import AttentionRollout
from attrib_plugin.errors import InputError, UnknownModelError, UnsupportedAttentionError
from attrib_plugin.families import TokenFacts, find_member, token_layout

BATCH, TOKENS = 3, 6
EXACT = {"rtol": 0.0, "atol": 1e-15}
UNKNOWN = find_member(nn.Linear(2, 2))
RIGHT = torch.tensor([[0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]], dtype=torch.bool)
LEFT = RIGHT.flip(1)


def text_facts(padding=None, like=torch.float64):
    return TokenFacts(
        n_tokens=TOKENS,
        batch_size=BATCH,
        n_text_tokens=TOKENS,
        image_size=None,
        padding=padding,
        like=torch.zeros(1, dtype=like),
    )


def image_facts(n_tokens, image_size=(24, 40), batch_size=2):
    like = torch.zeros(1, dtype=torch.float64)
    pooling = torch.full((batch_size, n_tokens), 1 / n_tokens, dtype=torch.float64)
    return TokenFacts(n_tokens, batch_size, None, image_size, None, like, pooling)


def layout_of(name, **options):
    """The layout of a tiny model on its own test image."""
    family = FAMILIES[name]
    n_tokens = family.prefix_tokens + family.grid[0] * family.grid[1]
    options = {**family.options, **options}
    return token_layout(find_member(tiny_model(name)), image_facts(n_tokens, family.image_size), **options)


def text_weights(readout, padding=None, member=UNKNOWN):
    return token_layout(member, text_facts(padding), readout=readout).readout


def one_hot(*positions):
    return torch.eye(TOKENS, dtype=torch.float64)[list(positions)]


# ------------------------------------------------------------------------------------- what the family says


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.grid])
def test_images_have_prefix_grid_and_no_padding(name):
    layout = layout_of(name)

    assert layout.prefix_tokens == FAMILIES[name].prefix_tokens
    assert layout.grid == FAMILIES[name].grid
    assert layout.padding is None
    assert layout.family == find_member(tiny_model(name)).family.name


@pytest.mark.parametrize(
    ("name", "prefix", "patch"),
    [
        ("hf_vit", [1], 0),
        ("timm_vit", [1], 0),
        ("torchvision_vit", [1], 0),
        ("timm_registers", [1, 0, 0, 0, 0], 0),
        ("timm_distilled", [0.5, 0.5], 0),
        ("timm_average", [], 1 / 15),
        ("dinov2", [0.5], 0.5 / 15),
        ("dinov2_registers", [0.5, 0, 0], 0.5 / 15),
    ],
)
def test_head_of_an_image_model_reads_these_shares(name, prefix, patch):
    weights = layout_of(name).readout

    n_patches = weights.shape[1] - len(prefix)
    expected = torch.tensor(prefix + [patch] * n_patches, dtype=torch.float64)
    assert_close(weights, expected.expand(2, -1), **EXACT)


def test_average_of_a_timm_model_with_a_class_token_leaves_it_out():
    from timm.models.vision_transformer import VisionTransformer

    settings = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2, "num_classes": 3}
    model = VisionTransformer(**settings, class_token=True, global_pool="avg")

    weights = token_layout(find_member(model), image_facts(5, (16, 16))).readout

    assert_close(weights, torch.tensor([[0, 0.25, 0.25, 0.25, 0.25]] * 2, dtype=torch.float64), **EXACT)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_head_of_a_text_classifier_reads_the_first_token(name):
    layout = token_layout(find_member(tiny_model(name)), text_facts(RIGHT))

    assert_close(layout.readout, one_hot(0, 0, 0), **EXACT)
    assert layout.grid is None
    assert layout.prefix_tokens == 0
    assert layout.padding is RIGHT


# ------------------------------------------------------------------------------------- what the user says


@pytest.mark.parametrize("padding", [None, RIGHT, LEFT])
def test_mean_is_over_real_tokens(padding):
    weights = text_weights("mean", padding)

    real = torch.ones(BATCH, TOKENS) if padding is None else (~padding).float()
    for sample in range(BATCH):
        expected = [1 / real[sample].sum().item() if token else 0 for token in real[sample]]
        assert_close(weights[sample], torch.tensor(expected, dtype=torch.float64), rtol=0.0, atol=1e-7)
    assert_close(weights.sum(-1), torch.ones(BATCH, dtype=torch.float64), **EXACT)


@pytest.mark.parametrize(
    ("padding", "positions"), [(None, (5, 5, 5)), (RIGHT, (5, 1, 4)), (LEFT, (5, 5, 5)), (RIGHT & LEFT, (5, 5, 5))]
)
def test_last_is_the_last_real_token(padding, positions):
    assert_close(text_weights("last", padding), one_hot(*positions), **EXACT)


def test_cls_is_the_first_token_whatever_the_padding():
    assert_close(text_weights("cls", RIGHT), one_hot(0, 0, 0), **EXACT)


def test_mean_of_an_image_leaves_the_prefix_out():
    weights = layout_of("timm_registers", readout="mean").readout

    assert_close(weights[0], torch.tensor([0.0] * 5 + [1 / 15] * 15, dtype=torch.float64), **EXACT)


@pytest.mark.parametrize(("readout", "position"), [(0, 0), (4, 4), (-1, 5), (-6, 0)])
def test_int_is_a_position_of_every_sample(readout, position):
    assert_close(text_weights(readout), one_hot(position, position, position), **EXACT)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_integers_are_a_position_for_each_sample(dtype):
    assert_close(text_weights(torch.tensor([4, 0, 2], dtype=dtype)), one_hot(4, 0, 2), **EXACT)


def test_negative_positions_count_from_the_end():
    assert_close(text_weights(torch.tensor([-1, 0, -6])), one_hot(5, 0, 0), **EXACT)


def test_weights_of_one_sample_hold_for_all_and_are_used_as_they_are():
    weights = torch.tensor([0.0, 2.0, 0.5, 0.0, 0.0, 1.0])

    assert_close(text_weights(weights), weights.double().expand(BATCH, -1), **EXACT)


def test_weights_of_every_sample_are_used_as_they_are():
    weights = torch.rand(BATCH, TOKENS, dtype=torch.float64)

    actual = text_weights(weights)
    actual += 1

    assert_close(text_weights(weights), weights, **EXACT)


def test_the_user_wins_over_the_family():
    assert_close(text_weights(3, member=find_member(tiny_model("bert"))), one_hot(3, 3, 3), **EXACT)


@pytest.mark.parametrize("like", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("readout", ["mean", 2, torch.tensor([1, 2, 3]), torch.rand(TOKENS)])
def test_weights_of_half_precision_models_are_float32(like, readout):
    assert token_layout(UNKNOWN, text_facts(like=like), readout=readout).readout.dtype is torch.float32


@pytest.mark.parametrize("readout", ["first", "CLS", "", True, 1.5, [0, 1, 2], (0,), b"cls"])
def test_readout_of_another_form_is_refused_with_all_forms(readout):
    with pytest.raises(InputError, match=r"readout must be 'cls', 'mean', 'last', an int, a LongTensor \(B,\) of pos"):
        text_weights(readout)


@pytest.mark.parametrize("readout", [6, -7, torch.tensor([0, 6, 1]), torch.tensor([0, -7, 1])])
def test_position_beyond_the_tokens_is_refused(readout):
    with pytest.raises(InputError, match="A readout position must be within the 6 tokens, not "):
        text_weights(readout)


@pytest.mark.parametrize(
    "readout",
    [torch.tensor([0, 1]), torch.tensor(1), torch.zeros(3, 6, dtype=torch.long), torch.ones(3, dtype=torch.bool)],
)
def test_positions_of_another_shape_are_refused_with_the_shape_wanted(readout):
    with pytest.raises(InputError, match=r"must be a LongTensor of shape \(3,\), one for each sample, not torch\."):
        text_weights(readout)


@pytest.mark.parametrize("shape", [(), (5,), (3,), (2, 6), (1, 6), (6, 3), (3, 6, 1)])
def test_weights_of_another_shape_are_refused_with_the_shapes_wanted(shape):
    with pytest.raises(InputError, match=r"must have shape \(6,\) or \(3, 6\), not \("):
        text_weights(torch.ones(shape))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -0.1])
def test_weights_that_cannot_be_shares_are_refused(wrong):
    with pytest.raises(InputError, match="finite, non-negative and not all zero"):
        text_weights(torch.tensor([1.0, wrong, 0, 0, 0, 0]))


def test_weights_that_are_all_zero_are_refused():
    with pytest.raises(InputError, match="finite, non-negative and not all zero"):
        text_weights(torch.zeros(TOKENS))


def test_weights_that_are_all_zero_for_one_sample_are_refused():
    weights = torch.ones(BATCH, TOKENS)
    weights[1] = 0

    with pytest.raises(InputError, match="finite, non-negative and not all zero"):
        text_weights(weights)


# ------------------------------------------------------------------------------------- what cannot be known


def test_unknown_model_is_refused_with_the_argument_to_give():
    with pytest.raises(
        UnknownModelError,
        match=r'which tokens the head of Linear \(family unknown\) reads.*Method\(model, readout="mean"\)\.',
    ):
        token_layout(UNKNOWN, text_facts())


def test_unknown_image_model_is_refused_with_the_grid_to_give():
    with pytest.raises(
        UnknownModelError, match=r"where the 16 tokens of Linear .* are in the image.*Method\(model, grid=\("
    ):
        token_layout(UNKNOWN, image_facts(16), readout="cls")


def test_model_of_a_family_without_a_known_head_is_refused_with_its_family():
    with pytest.raises(UnknownModelError, match=r"head of BertModel \(family hf_bert\) reads.*readout="):
        token_layout(find_member(tiny_model("bert").bert), text_facts())


@pytest.mark.parametrize("pooling", ["max", "avgmax"])
def test_maximum_pooling_of_timm_is_not_guessed(pooling):
    from timm.models.vision_transformer import VisionTransformer

    settings = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2, "num_classes": 3}
    model = VisionTransformer(**settings, class_token=False, global_pool=pooling)

    with pytest.raises(UnknownModelError, match="which tokens the head of VisionTransformer"):
        token_layout(find_member(model), image_facts(4, (16, 16)))


def test_attention_pooling_that_was_not_seen_is_refused():
    member = find_member(tiny_model("timm_siglip"))
    facts = TokenFacts(15, 2, None, (24, 40), None, torch.zeros(1))

    with pytest.raises(UnsupportedAttentionError, match="Expected one attention pooling of the 15 tokens, found none"):
        token_layout(member, facts)


def test_public_method_on_an_unknown_model_shows_the_argument_to_give():
    model, (ids, keywords) = tiny_model("torch_encoder"), tiny_input("torch_encoder")

    with pytest.raises(UnknownModelError, match=r'TransformerEncoder \(family torch_encoder\).*readout="mean"'):
        AttentionRollout(model).attribute(ids, forward_kwargs=keywords)


@pytest.mark.parametrize(("n_tokens", "prefix"), [(15, 0), (16, 1)])
def test_unknown_model_with_a_grid_is_believed_to_have_at_most_a_class_token(n_tokens, prefix):
    layout = token_layout(UNKNOWN, image_facts(n_tokens), readout="mean", grid=(3, 5))

    assert (layout.grid, layout.prefix_tokens) == ((3, 5), prefix)
    assert_close(layout.readout[0], torch.tensor([0.0] * prefix + [1 / 15] * 15, dtype=torch.float64), **EXACT)


def test_unknown_model_with_more_tokens_than_that_is_refused_until_told():
    with pytest.raises(UnsupportedAttentionError, match=r"give grid=\(rows, columns\) and prefix_tokens=number"):
        token_layout(UNKNOWN, image_facts(17), readout="mean", grid=(3, 5))

    assert token_layout(UNKNOWN, image_facts(17), readout="mean", grid=(3, 5), prefix_tokens=2).prefix_tokens == 2


def test_grid_and_prefix_of_the_user_are_kept():
    layout = token_layout(UNKNOWN, image_facts(17), readout="cls", grid=(4, 4), prefix_tokens=1)

    assert (layout.grid, layout.prefix_tokens) == ((4, 4), 1)


@pytest.mark.parametrize(
    "options", [{"grid": (4, 4), "prefix_tokens": 2}, {"grid": (5, 5)}, {"grid": (3, 6), "prefix_tokens": -1}]
)
def test_grid_and_prefix_that_do_not_make_up_the_tokens_are_refused(options):
    with pytest.raises(
        UnsupportedAttentionError, match=r"over 17 tokens, which are not -?\d+ prefix tokens and \d x \d"
    ):
        token_layout(UNKNOWN, image_facts(17), readout="cls", **options)


def test_attention_over_other_tokens_than_the_image_has_is_refused():
    with pytest.raises(UnsupportedAttentionError, match=r"over 49 tokens, which are not 1 prefix tokens and 3 x 5"):
        token_layout(find_member(tiny_model("timm_vit")), image_facts(49))


def test_attention_over_other_tokens_than_the_text_has_is_refused():
    facts = TokenFacts(4, BATCH, TOKENS, None, None, torch.zeros(1))

    with pytest.raises(UnsupportedAttentionError, match=r"over 4 tokens, but the input has 6\. Expected one"):
        token_layout(UNKNOWN, facts, readout="cls")

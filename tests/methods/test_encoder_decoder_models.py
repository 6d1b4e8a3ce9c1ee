"""Encoders with decoders that no table knows, the user's model afterwards, and errors."""

from __future__ import annotations

import copy

import pytest
import torch
from captum.attr import NoiseTunnel
from encoder_decoder_models import PAD, detr, seeded, text_model, texts
from torch import Tensor, nn
from torch.testing import assert_close

from attrib_plugin import EncoderDecoderRelevance, GradientRollout, RawAttention
from attrib_plugin.errors import (
    InputError,
    TargetError,
    UnknownModelError,
    UnsupportedAttentionError,
)

IDS, MASK = texts()

DECODER_IDS, DECODER_MASK = texts((5, 3, 4), seed=9)

KEYWORDS = {"attention_mask": MASK, "decoder_input_ids": DECODER_IDS, "decoder_attention_mask": DECODER_MASK}

TARGETS = [(3, 7), (1, 9), (2, 11)]

IMAGES = torch.randn(2, 3, 70, 100, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def assert_same(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    assert_close(actual, expected, rtol=0.0, atol=tolerance * float(expected.abs().max()))


# ------------------------------------------------------------------------------------- models that no table knows


class TorchTransformer(nn.Module):
    """``nn.Transformer`` between an embedding and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(60, 32)
        self.transformer = nn.Transformer(32, 4, 2, 2, 48, batch_first=True)
        self.head = nn.Linear(32, 60)

    def forward(self, ids: Tensor, words: Tensor) -> Tensor:
        later = torch.full((words.shape[1],) * 2, -torch.inf, dtype=torch.float64).triu(1)
        return self.head(self.transformer(self.embedding(ids), self.embedding(words), tgt_mask=later))


def bert_to_bert() -> nn.Module:
    from transformers import BertConfig, BertLMHeadModel, BertModel, EncoderDecoderModel

    sizes = dict(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    decoder = BertLMHeadModel(BertConfig(is_decoder=True, add_cross_attention=True, **sizes))
    return seeded(EncoderDecoderModel(encoder=BertModel(BertConfig(**sizes)), decoder=decoder))


@pytest.mark.parametrize("words", [DECODER_IDS, IDS], ids=["unequal", "equal"])
def test_torchs_own_transformer_needs_no_table(words):
    model = seeded(TorchTransformer())

    relevance = EncoderDecoderRelevance(model).attribute(IDS, (2, 7), additional_forward_args=(words,))

    assert (relevance > 0).all()
    first = EncoderDecoderRelevance(model).attribute(IDS[:1], (2, 7), additional_forward_args=(words[:1],))
    assert_same(relevance[:1], first)


@pytest.mark.parametrize("words", [DECODER_IDS, IDS], ids=["unequal", "equal"])
def test_two_models_joined_by_cross_attention_need_no_table(words):
    model = bert_to_bert()
    keywords = {"attention_mask": MASK, "decoder_input_ids": words}

    relevance = EncoderDecoderRelevance(model).attribute(IDS, (2, 7), forward_kwargs=keywords)

    assert torch.equal(relevance > 0, MASK.bool())
    with pytest.raises(UnsupportedAttentionError, match=r"is cross attention.*EncoderDecoderRelevance follows"):
        GradientRollout(model, readout="cls").attribute(IDS, (2, 7), forward_kwargs=keywords)


def test_a_caption_is_explained_on_the_patches_of_its_image():
    from transformers import GPT2Config, GPT2LMHeadModel, VisionEncoderDecoderModel, ViTConfig, ViTModel

    vision = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    text = dict(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=40, bos_token_id=2, eos_token_id=3)
    model = VisionEncoderDecoderModel(
        encoder=ViTModel(ViTConfig(image_size=(24, 40), patch_size=8, **vision)),
        decoder=GPT2LMHeadModel(GPT2Config(add_cross_attention=True, **text)),
    )
    images = torch.randn(2, 3, 24, 40, dtype=torch.float64)

    patches = EncoderDecoderRelevance(seeded(model)).attribute(
        images, (2, 7), forward_kwargs={"decoder_input_ids": DECODER_IDS[:2]}, return_input_shape=False
    )

    assert patches.shape == (2, 1, 3, 5)
    assert (patches > 0).any()


def test_the_noise_tunnel_takes_embeddings_and_repeats_the_decoders_ids():
    model = text_model("bart")
    embeddings = model.get_input_embeddings()(IDS).detach()
    method = EncoderDecoderRelevance(model)
    options = {"additional_forward_args": (MASK, DECODER_IDS), "target": TARGETS}

    smooth = NoiseTunnel(method).attribute(embeddings, nt_samples=2, stdevs=0.0, **options)

    assert smooth.shape == embeddings.shape
    assert_same(smooth, method.attribute(embeddings, **options))
    assert_same(smooth[..., 0], method.attribute(IDS, **options))


def test_captums_word_for_the_method_reads_as_words():
    assert EncoderDecoderRelevance.get_name() == "Encoder Decoder Relevance"
    assert hasattr(EncoderDecoderRelevance.attribute, "__wrapped__")


def test_a_tuple_gives_a_tuple():
    (relevance,) = EncoderDecoderRelevance(text_model("bart")).attribute((IDS,), TARGETS, forward_kwargs=KEYWORDS)

    assert_same(relevance, EncoderDecoderRelevance(text_model("bart")).attribute(IDS, TARGETS, forward_kwargs=KEYWORDS))


@pytest.mark.parametrize("target", [(2, 1), (9, 9)], ids=["success", "failure"])
def test_nothing_is_left_behind(target):
    model = copy.deepcopy(detr())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logits = model(IMAGES).logits
    graphs = [parameter.requires_grad for parameter in model.parameters()]

    if target == (9, 9):
        with pytest.raises(TargetError, match="does not fit the model's output"):
            EncoderDecoderRelevance(model).attribute(IMAGES, target)
    else:
        EncoderDecoderRelevance(model).attribute_both(IMAGES, target)

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == graphs
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model(IMAGES).logits, logits)


# ------------------------------------------------------------------------------------- errors


def test_a_model_without_cross_attention_is_refused_with_the_methods_for_it():
    from transformers import BertConfig, BertForSequenceClassification

    model = BertForSequenceClassification(
        BertConfig(vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    ).eval()

    with pytest.raises(
        UnsupportedAttentionError, match=r"is cross-attention\. Expected an encoder-decoder; GradientRollout"
    ):
        EncoderDecoderRelevance(model).attribute(IDS, 1)


def test_an_encoder_that_was_not_run_is_refused():
    model = text_model("bart")
    encoded = model.get_encoder()(IDS)

    with pytest.raises(UnsupportedAttentionError, match=r"No self-attention of the encoder was seen.*encoder_outputs"):
        EncoderDecoderRelevance(model).attribute(
            IDS, (1, 5), forward_kwargs={"decoder_input_ids": DECODER_IDS, "encoder_outputs": encoded}
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (torch.full((3, 41), 9), "takes at most 40 decoder tokens, found 41"),
        (torch.full((3, 4), 60), "Token id 60 is outside the vocabulary of 60 ids"),
        (torch.full((3,), 9), r"Expected decoder_input_ids of shape \(B, T\), found \(3,\)"),
        (torch.full((2, 4), 9), "has 2 rows for 3 samples"),
    ],
)
def test_wrong_decoder_ids_are_refused_before_the_model_is_run(words, message, monkeypatch):
    model = text_model("bart")
    monkeypatch.setattr(nn.Linear, "forward", lambda *_: pytest.fail("The model was run."))

    with pytest.raises(InputError, match=message):
        EncoderDecoderRelevance(model).attribute(IDS, (1, 5), forward_kwargs={"decoder_input_ids": words})


def test_a_score_of_no_position_asks_what_is_read():
    model = text_model("bart")
    method = EncoderDecoderRelevance(lambda ids, **options: model(ids, **options).logits.sum(1), model=model)

    with pytest.raises(UnknownModelError, match="which tokens the head of"):
        method.attribute(IDS, 5, forward_kwargs=KEYWORDS)


def test_an_unknown_sign_is_refused():
    with pytest.raises(ValueError, match="sign must be 'positive', 'negative' or 'signed', not 'both'"):
        EncoderDecoderRelevance(text_model("bart"), sign="both")


@pytest.mark.parametrize("method", [GradientRollout, RawAttention])
@pytest.mark.parametrize("name", ["bart", "t5", "marian", "pegasus"])
def test_methods_for_one_sequence_name_this_class_for_known_encoder_decoders(name, method):
    with pytest.raises(UnsupportedAttentionError, match=r"EncoderDecoderRelevance\(model\) follows both"):
        method(text_model(name), readout="cls").attribute(IDS, forward_kwargs=KEYWORDS)


def test_methods_for_one_sequence_name_this_class_for_object_queries_and_for_unknown_models():
    with pytest.raises(UnsupportedAttentionError, match=r"EncoderDecoderRelevance\(model\) follows both, with target="):
        GradientRollout(detr()).attribute(IMAGES, (2, 1))
    with pytest.raises(UnsupportedAttentionError, match="EncoderDecoderRelevance follows its cross-attention"):
        GradientRollout(seeded(TorchTransformer()), readout="cls").attribute(
            IDS, (2, 1), additional_forward_args=(DECODER_IDS,)
        )


def test_the_ids_of_padding_are_as_the_tests_say():
    assert (IDS == PAD).equal(MASK == 0)

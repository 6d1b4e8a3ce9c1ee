"""Encoders with decoders, and inputs that no text model takes."""

import pytest
import torch
import transformers
from text_models import (
    DECODERS,
    ENCODERS,
    EXACT,
    LENGTHS,
    N_CLASSES,
    PAD,
    TARGETS,
    assert_rows_alone,
    mask_of,
    model_of,
    text,
)
from torch import nn
from torch.testing import assert_close

from attrib_plugin import GradientRollout
from attrib_plugin.errors import (
    AttributionError,
    InputError,
    UnknownModelError,
    UnsupportedAttentionError,
)

# ------------------------------------------------------------------------------------- encoder and decoder


def seq2seq(stem, suffix, **changes):
    sizes = {
        "T5": {"vocab_size": 60, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
        "Bart": {
            "vocab_size": 60,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "max_position_embeddings": 40,
        },
    }
    marks = {"pad_token_id": PAD, "eos_token_id": 3, "decoder_start_token_id": 2, "num_labels": N_CLASSES}
    config = getattr(transformers, f"{stem}Config")(**sizes[stem], **marks, **changes)
    torch.manual_seed(0)
    return getattr(transformers, f"{stem}{suffix}")(config).eval().double()


@pytest.mark.parametrize("suffix", ["Model", "ForConditionalGeneration", "ForSequenceClassification"])
@pytest.mark.parametrize("stem", ["T5", "Bart"])
def test_encoder_decoders_are_refused_and_the_error_names_what_to_use(stem, suffix):
    method = GradientRollout(seq2seq(stem, suffix))

    with pytest.raises(UnsupportedAttentionError, match=r"cross-attention.*model\.get_encoder\(\), readout=\"mean\""):
        method.attribute(text()[0], 1)


class EncoderClassifier(nn.Module):
    """A classifier on the mean of a T5 or BART encoder."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(32, N_CLASSES, dtype=torch.float64)
        self.eval()

    def forward(self, ids, attention_mask):
        hidden = self.encoder(ids, attention_mask=attention_mask).last_hidden_state
        real = attention_mask[..., None].to(hidden)
        return self.head((hidden * real).sum(1) / real.sum(1))


@pytest.mark.parametrize("encoder", ["T5EncoderModel", "T5.get_encoder", "Bart.get_encoder"])
def test_encoders_of_t5_and_bart_work_with_a_read_out_and_row_by_row(encoder):
    if encoder == "T5EncoderModel":
        inner = seq2seq("T5", "EncoderModel")
    else:
        inner = seq2seq(encoder.split(".")[0], "Model").get_encoder()
    method = GradientRollout(EncoderClassifier(inner), readout="mean")
    ids, mask = text()

    batch = method.attribute(ids, TARGETS, **mask_of(mask))

    assert batch.any(-1).all()
    for sample, length in enumerate(LENGTHS):
        alone = method.attribute(
            ids[sample : sample + 1, :length], TARGETS[sample], **mask_of(mask[sample : sample + 1, :length])
        )
        assert_rows_alone(batch[sample, :length], alone[0], 1e-6)
        assert not batch[sample, length:].any()


def test_an_encoder_without_a_head_asks_for_the_read_out():
    model = EncoderClassifier(seq2seq("T5", "EncoderModel"))
    ids, mask = text()

    with pytest.raises(UnknownModelError, match=r'such as: GradientRollout\(model, readout="mean"\)'):
        GradientRollout(model).attribute(ids, 1, **mask_of(mask))


def test_token_classification_on_a_t5_encoder_reads_the_target():
    model = seq2seq("T5", "ForTokenClassification")
    ids, mask = text()

    relevance = GradientRollout(model).attribute(ids, (2, 1), **mask_of(mask))

    assert_close(relevance, GradientRollout(model).attribute(ids, (2, 1), **mask_of(mask), readout=2), **EXACT)
    assert not relevance[mask == 0].any()


# ------------------------------------------------------------------------------------- bad input

LONGEST = {
    "Bert": 40,
    "Roberta": 38,
    "XLMRoberta": 38,
    "Camembert": 38,
    "Electra": 40,
    "DistilBert": 40,
    "Albert": 40,
    "Deberta": 40,
    "DebertaV2": 40,
    "MPNet": 38,
    "RoFormer": 40,
    "GPT2": 40,
    "GPTBigCode": 40,
    "GPTNeo": 40,
    "OPT": 40,
}


@pytest.mark.parametrize(("stem", "longest"), LONGEST.items())
def test_the_longest_text_works_and_one_token_more_is_an_error(stem, longest):
    model = model_of(stem)

    relevance = GradientRollout(model).attribute(torch.full((1, longest), 9), 1)

    assert relevance.shape == (1, longest)
    with pytest.raises(InputError, match=f"takes at most {longest} tokens, found {longest + 1}"):
        GradientRollout(model).attribute(torch.full((1, longest + 1), 9), 1)


def test_texts_that_are_too_long_for_the_encoder_of_bart_are_refused():
    method = GradientRollout(EncoderClassifier(seq2seq("Bart", "Model").get_encoder()), readout="mean")

    longest = torch.full((1, 40), 9)

    assert method.attribute(longest, 1, **mask_of(torch.ones_like(longest))).shape == (1, 40)
    with pytest.raises(InputError, match="BartEncoder takes at most 40 tokens, found 41"):
        method.attribute(torch.full((1, 41), 9), 1)


@pytest.mark.parametrize("stem", ["Llama", "Mistral", "ModernBert", "GPTNeoX", "Bloom", "Falcon"])
def test_relative_positions_have_no_longest_text(stem):
    assert GradientRollout(model_of(stem)).attribute(torch.full((1, 50), 9), 1).shape == (1, 50)


def test_deberta_without_absolute_positions_has_no_longest_text():
    model = model_of("DebertaV2", position_biased_input=False, relative_attention=True, position_buckets=4)

    assert GradientRollout(model).attribute(torch.full((1, 50), 9), 1).shape == (1, 50)


@pytest.mark.parametrize("wrong", [-1, 60])
@pytest.mark.parametrize("stem", {**ENCODERS, **DECODERS})
def test_ids_outside_of_the_vocabulary_are_refused(stem, wrong):
    with pytest.raises(InputError, match=f"Token id {wrong} is outside the vocabulary of 60 ids"):
        GradientRollout(model_of(stem)).attribute(torch.tensor([[5, wrong, 6]]), 1)


@pytest.mark.parametrize("stem", ["Bert", "Llama"])
def test_an_image_for_a_text_model_is_refused(stem):
    with pytest.raises(AttributionError, match="reads text, but the input is an image batch"):
        GradientRollout(model_of(stem)).attribute(torch.zeros(1, 3, 8, 8), 1)

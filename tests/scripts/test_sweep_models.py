"""A sample of the sweep, in which every pair of features meets; and that the proofs fail where they should."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import model_builders
import model_proofs
import sweep_models
from tiny_models import EncoderClassifier

from attrib_plugin import GradientRollout
from attrib_plugin.errors import UnsupportedAttentionError

# Fused and eager meet class token, mean, attention pooling and last token; absolute, relative and rotary positions;
# prefix tokens or none; layer scale; grouped queries.
SAMPLE = [
    ("timm", "vit_base_patch16_224", "sdpa"),
    ("timm", "vit_base_patch16_siglip_224", "eager"),
    ("timm", "vit_relpos_base_patch16_cls_224", "sdpa"),
    ("timm", "eva02_tiny_patch14_224", "eager"),
    ("timm", "vit_small_patch16_dinov3", "sdpa"),
    ("timm", "deit3_small_patch16_224", "eager"),
    ("timm", "qwen3_vit_88m_merge", "sdpa"),
    ("transformers", "bert BertForSequenceClassification", "sdpa"),
    ("transformers", "deberta-v2 DebertaV2ForSequenceClassification", "eager"),
    ("transformers", "llama LlamaForSequenceClassification", "eager"),
    ("transformers", "gptj GPTJForSequenceClassification", "eager"),
    ("transformers", "eurobert EuroBertForSequenceClassification", "sdpa"),
    ("transformers", "ultravbert UltraVBertForSequenceClassification", "eager"),
    ("transformers", "tapas TapasForSequenceClassification", "eager"),
    ("transformers", "layoutlmv3 LayoutLMv3ForSequenceClassification", "sdpa"),
    ("transformers", "siglip2 Siglip2ForImageClassification", "sdpa"),
    ("transformers", "metaclip_2 MetaClip2ForImageClassification", "sdpa"),
]


def case_of(library, name, implementation):
    ((_, case),) = model_builders.cases(library, name, implementation)
    return case


# The sweep runs with warnings ignored: a residual alone is silent for a class token, on purpose.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(("library", "name", "implementation"), SAMPLE)
def test_an_architecture_of_the_sample_is_proven(library, name, implementation):
    assert model_proofs.failed_proofs(case_of(library, name, implementation)) == []


# ------------------------------------------------------------------------------------- proofs that must fail


class Convolving(nn.Module):
    """An encoder with a convolution over tokens beside every attention."""

    def __init__(self):
        super().__init__()
        whole = EncoderClassifier()
        self.embedding, self.head, self.layers = whole.embedding, whole.head, whole.encoder.layers
        self.convolution = nn.Conv1d(32, 32, 3, padding=1)

    def forward(self, ids):
        hidden = self.embedding(ids)
        for layer in self.layers:
            hidden = layer(hidden) + self.convolution(hidden.mT).mT
        return self.head(hidden.mean(1))


def ids():
    return torch.randint(5, 60, (3, 7))


def text_case(model, **options):
    return model_proofs.Case(model.eval(), ids(), options=options)


def test_a_read_out_of_the_wrong_token_is_found():
    case = case_of("transformers", "bert BertForSequenceClassification", "sdpa")

    failed = model_proofs.failed_proofs(replace(case, options={"readout": "last"}))

    assert failed == ["the head reads other tokens than the read-out names"]


def test_a_convolution_beside_attention_is_found(monkeypatch):
    monkeypatch.setattr(model_proofs, "LENGTHS", (7, 7, 7))

    failed = model_proofs.failed_proofs(text_case(Convolving(), readout="mean"))

    assert "tokens are mixed outside of attention, or layers are not one after another" in failed


def test_a_grid_of_the_wrong_orientation_is_found():
    case = case_of("timm", "vit_tiny_patch16_224", "sdpa")

    failed = model_proofs.failed_proofs(replace(case, options={"grid": (5, 3), "prefix_tokens": 1}))

    assert failed == ["a corner of the image is not the token that the grid names"]


def test_gradients_that_are_not_those_of_the_score_are_found(monkeypatch):
    from attrib_plugin.capture import attention

    right = attention.call_gradient
    monkeypatch.setattr(attention, "call_gradient", lambda call, gradient: -right(call, gradient))

    failed = model_proofs.failed_proofs(case_of("timm", "vit_tiny_patch16_224", "sdpa"))

    assert "gradients differ from autograd through open attention" in failed


def test_a_map_that_depends_on_the_rest_of_the_batch_is_found(monkeypatch):
    right = GradientRollout.attribute

    def mixed(self, inputs, *arguments, **keywords):
        return right(self, inputs, *arguments, **keywords) * len(inputs)

    monkeypatch.setattr(GradientRollout, "attribute", mixed)

    failed = model_proofs.failed_proofs(case_of("timm", "vit_tiny_patch16_224", "sdpa"))

    assert failed == ["a sample of a batch gives another map alone"]


def test_what_is_refused_raises_the_refusal():
    case = case_of("transformers", "convbert ConvBertForSequenceClassification", "eager")

    with pytest.raises(UnsupportedAttentionError, match="mixes neighbouring tokens by convolution"):
        model_proofs.failed_proofs(case)


# ------------------------------------------------------------------------------------------------ the weights


def test_what_is_drawn_anew_is_not_drawn_by_the_library(monkeypatch):
    def again(*arguments, **keywords):
        raise RuntimeError("drawn once more")

    monkeypatch.setattr(torch, "empty_like", again)
    weight = torch.full((2, 3), 7.0)

    with model_builders._undrawn():
        nn.init.trunc_normal_(weight)
        nn.init.uniform_(weight)

    assert weight.eq(7.0).all()


def test_nothing_of_a_convolutional_stem_is_left_as_it_was_in_memory():
    model = nn.ModuleDict({"backbone": nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4))})
    nn.init.zeros_(model["backbone"][1].weight)
    for parameter in (*model["backbone"][0].parameters(), model["backbone"][1].bias):
        nn.init.constant_(parameter, float("nan"))

    model_builders._draw_weights(model)

    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert not model["backbone"][1].weight.any()


# ------------------------------------------------------------------------------------------------ the driver


@pytest.mark.parametrize(
    ("library", "name", "verdict", "reason"),
    [
        ("timm", "resnet18", "no attention", ""),
        ("timm", "vit_tiny_patch16_224", "works", ""),
        ("timm", "pit_ti_224", "refused", "tokens are merged between stages"),
        ("transformers", "bart BartForSequenceClassification", "refused", "cross-attention"),
        ("transformers", "fnet FNetForSequenceClassification", "no attention", ""),
    ],
)
def test_a_model_gets_its_verdict(library, name, verdict, reason):
    record = sweep_models.examine(library, name)

    assert record["verdict"] == verdict
    assert reason in record["reason"]


def test_a_model_that_cannot_be_built_is_unverified(monkeypatch):
    monkeypatch.setattr(model_builders, "LARGEST", 1000)

    record = sweep_models.examine("timm", "vit_tiny_patch16_224")

    assert record["verdict"] == "unverified"
    assert "million weights do not fit" in record["reason"]


def test_the_newest_record_of_a_model_counts(tmp_path):
    results = tmp_path / "results.jsonl"
    results.write_text(
        '{"library": "timm", "name": "a", "verdict": "unverified"}\n'
        '{"library": "timm", "name": "a", "verdict": "works"}\n'
    )

    assert [record["verdict"] for record in sweep_models.read(results)] == ["works"]
    assert sweep_models.read(tmp_path / "none.jsonl") == []


def test_only_what_the_summary_does_not_answer_is_chosen_and_attention_comes_first(monkeypatch):
    known = {("timm", "vit_tiny_patch16_224"): "works", ("timm", "vit_base_patch16_224"): "unverified"}
    monkeypatch.setattr(sweep_models, "summarised", lambda: known)
    jobs = [("timm", "resnet18"), ("timm", "vit_tiny_patch16_224"), ("timm", "vit_base_patch16_224")]
    jobs += [("transformers", "bert BertForSequenceClassification")]

    assert sweep_models.choose(jobs, new=True) == [jobs[3], jobs[0]]
    assert sweep_models.choose(jobs, verdicts=["unverified"]) == [jobs[2]]
    assert sweep_models.choose(jobs) == [jobs[1], jobs[2], jobs[3], jobs[0]]


def test_the_committed_summary_answers_for_models_by_name():
    assert sweep_models.summarised()["timm", "vit_base_patch16_224"] == "works"

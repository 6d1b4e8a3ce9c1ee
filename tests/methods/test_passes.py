"""A call of the user's function is one pass of the model, with scores for every sample and a read-out that is real."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_input, tiny_model
from torch import Tensor, nn
from torch.testing import assert_close

from attrib_plugin import AttentionRollout, GradientRollout, methods
from attrib_plugin.errors import AttributionError, NumericsWarning, UnsupportedAttentionError

BERT, ALBERT = tiny_model("bert"), tiny_model("albert")
IDS, KEYWORDS = tiny_input("bert")
every_method = pytest.mark.parametrize("method", [getattr(methods, name) for name in methods.__all__])


def twice(ids: Tensor, **keywords: Tensor) -> Tensor:
    return BERT(ids, **keywords).logits + BERT(ids, **keywords).logits


def after_a_look(ids: Tensor, **keywords: Tensor) -> Tensor:
    with torch.no_grad():
        BERT(ids, **keywords)
    return BERT(ids, **keywords).logits


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = BERT

    def forward(self, ids: Tensor, **keywords: Tensor) -> Tensor:
        return self.encoder(ids, **keywords).logits * self.encoder(ids.flip(0), **keywords).logits


@every_method
@pytest.mark.parametrize("function", [twice, after_a_look, Siamese().eval()], ids=["twice", "after_a_look", "siamese"])
def test_several_passes_in_one_call_are_refused(method, function):
    # Stacked on each other they would give a map like any other.
    with pytest.raises(UnsupportedAttentionError, match=r"BertForSeq\w+ ran 2 times in one call.* runs it once"):
        method(function, model=None if isinstance(function, nn.Module) else BERT).attribute(
            IDS, forward_kwargs=KEYWORDS
        )


def test_a_layer_that_one_pass_runs_several_times_is_no_second_pass():
    ids, keywords = tiny_input("albert")

    assert len(AttentionRollout(ALBERT).head_attention(ids, forward_kwargs=keywords)) == 3


@every_method
@pytest.mark.parametrize("cut", [lambda logits: logits[:2], lambda logits: logits.mean(0, keepdim=True)])
def test_scores_for_another_number_of_samples_are_refused(method, cut):
    with pytest.raises(AttributionError, match=r"Expected scores for 3 samples, found \d rows \(\d, 5\)"):
        method(lambda ids: cut(BERT(ids).logits), model=BERT).attribute(IDS)


@pytest.mark.filterwarnings("ignore:The relevance of")
@pytest.mark.parametrize("method", [AttentionRollout, GradientRollout])
@pytest.mark.parametrize("readout", [-1, 6, torch.tensor([6, 5, 6])], ids=str)
def test_a_read_out_that_is_padding_is_warned_about(method, readout):
    with pytest.warns(NumericsWarning, match=r"read of samples \[1, 2\] is padding.* readout=\"last\""):
        found = method(BERT, readout=readout).attribute(IDS[:], forward_kwargs=KEYWORDS)

    alone = method(BERT, readout=6).attribute(IDS[:1])
    assert_close(found[:1], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("readout", ["last", torch.tensor([6, 3, 5]), torch.full((7,), 1 / 7)], ids=str)
def test_a_read_out_that_is_real_at_least_in_part_is_not_warned_about(readout):
    assert AttentionRollout(BERT, readout=readout).attribute(IDS, forward_kwargs=KEYWORDS).any()

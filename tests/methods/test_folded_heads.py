"""BLOOM folds samples and heads into one axis, and makes its scores by one operation that is a product and a sum."""

from functools import cache

import pytest
import torch
from torch.testing import assert_close

from attrib_plugin import AttentionAwareRelevance, AttentionRollout, GradientRollout, TransformerAttribution
from attrib_plugin.propagation import Composite, Epsilon

IDS = torch.randint(3, 60, (3, 7), generator=torch.Generator().manual_seed(0))


@cache
def bloom():
    from transformers import BloomConfig, BloomForSequenceClassification

    torch.manual_seed(0)
    config = BloomConfig(vocab_size=60, hidden_size=32, n_layer=2, n_head=4, num_labels=3, pad_token_id=0)
    model = BloomForSequenceClassification(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("method", [AttentionRollout, GradientRollout, TransformerAttribution, AttentionAwareRelevance])
def test_a_batch_is_its_samples_alone(method):
    explainer, targets = method(bloom()), [1, 2, 0] if method.needs_gradients else None
    mask = torch.ones_like(IDS)

    batch = explainer.attribute(IDS, targets, forward_kwargs={"attention_mask": mask})

    for sample in range(3):
        target = None if targets is None else targets[sample]
        keywords = {"attention_mask": mask[:1]}
        alone = explainer.attribute(IDS[sample : sample + 1], target, forward_kwargs=keywords)
        assert_close(batch[sample], alone[0], rtol=0, atol=1e-9 * float(alone.abs().max()))


def test_scores_made_by_one_operation_have_the_gradient_of_the_product_and_the_sum():
    kinds = ("linear", "product", "softmax", "sum", "scaling", "gate", "activation", "norm")
    control = Composite("gradient times input", dict.fromkeys(kinds, Epsilon()), start="value")
    words = bloom().transformer.word_embeddings(IDS).detach()
    mask = torch.ones_like(IDS)

    def from_embeddings(inputs, attention_mask):
        return bloom()(inputs_embeds=inputs, attention_mask=attention_mask).logits

    method = AttentionAwareRelevance(from_embeddings, model=bloom(), composite=control, readout="last")
    found = method.attribute(words, [1, 2, 0], forward_kwargs={"attention_mask": mask})

    leaf = words.clone().requires_grad_()
    score = from_embeddings(leaf, mask)[torch.arange(3), [1, 2, 0]].sum()
    expected = words * torch.autograd.grad(score, leaf)[0]
    # BLOOM takes its softmax in float32 whatever the model's type.
    assert_close(found, expected, rtol=0, atol=1e-7 * float(expected.abs().max()))

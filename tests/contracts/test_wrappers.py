"""Models inside wrappers are explained like the models themselves."""

import pytest
import torch
from tiny_models import FAMILIES, tiny_input, tiny_model
from torch import nn

from attrib_plugin import GradientRollout

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")


class Unwrapping(nn.Module):
    """What Captum users write around transformers models today."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs, **keywords):
        output = self.model(inputs, **keywords)
        return getattr(output, "logits", output)


def around(model):
    def function(*inputs, **keywords):
        return model(*inputs, **keywords)

    return function, {"model": model}


WRAPPERS = {
    "data_parallel": lambda model: (nn.DataParallel(model), {}),
    "unwrapping_module": lambda model: (Unwrapping(model), {}),
    "function": around,
    "compiled": lambda model: (torch.compile(model, backend="eager"), {}),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("family_name", FAMILIES)
def test_a_wrapped_model_has_the_map_of_the_model(family_name, wrapper):
    model = tiny_model(family_name)
    inputs, keywords = tiny_input(family_name)
    wrapped, options = WRAPPERS[wrapper](model)

    relevance = GradientRollout(wrapped, **options, **FAMILIES[family_name].options).attribute(
        inputs, target=[1, 4, 2], forward_kwargs=keywords
    )

    expected = GradientRollout(model, **FAMILIES[family_name].options).attribute(
        inputs, target=[1, 4, 2], forward_kwargs=keywords
    )
    torch.testing.assert_close(relevance, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("wrapper", ["data_parallel", "compiled"])
def test_embeddings_reach_a_wrapped_model_as_embeddings(wrapper):
    model = tiny_model("bert")
    ids, keywords = tiny_input("bert")
    wrapped, _ = WRAPPERS[wrapper](model)
    with torch.no_grad():
        embeddings = model.get_input_embeddings()(ids)

    relevance = GradientRollout(wrapped).attribute(
        embeddings, target=1, forward_kwargs=keywords, return_input_shape=False
    )

    expected = GradientRollout(model).attribute(ids, target=1, forward_kwargs=keywords)
    torch.testing.assert_close(relevance, expected, rtol=0, atol=1e-12)

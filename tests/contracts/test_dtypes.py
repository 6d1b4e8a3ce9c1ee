"""Half-precision models: products are accumulated in float32, and maps stay close to the float32 model's."""

import pytest
import torch
from tiny_models import FAMILIES, tiny_input, tiny_model

from attrib_plugin import methods

METHODS = {name: getattr(methods, name) for name in methods.__all__}
# Half precision rounds weights and activations of the model itself; bfloat16 keeps 8 bits, float16 keeps 11.
TOLERANCES = {torch.bfloat16: 0.25, torch.float16: 0.03}

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")


def attribute(method_name, family_name, dtype):
    method = METHODS[method_name](tiny_model(family_name, dtype=dtype), **FAMILIES[family_name].options)
    inputs, keywords = tiny_input(family_name, dtype=dtype)
    target = [1, 4, 2] if method.needs_gradients else None
    return method.attribute(inputs, target, forward_kwargs=keywords, return_input_shape=False)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("family_name", FAMILIES)
@pytest.mark.parametrize("method_name", METHODS)
def test_a_half_precision_model_gives_nearly_the_same_map(method_name, family_name, dtype):
    relevance = attribute(method_name, family_name, dtype)

    expected = attribute(method_name, family_name, torch.float32)
    assert relevance.dtype is torch.float32
    torch.testing.assert_close(relevance, expected, rtol=0, atol=TOLERANCES[dtype] * expected.abs().max().item())

"""Half-precision models: products are accumulated in float32, and maps stay close to the float32 model's."""

import pytest
import torch
from contract_methods import CLOSE_PAIRS, made
from tiny_models import FAMILIES, tiny_input, tiny_model

# Half precision rounds weights and activations of the model itself; bfloat16 keeps 8 bits, float16 keeps 11.
TOLERANCES = {torch.bfloat16: 0.25, torch.float16: 0.03}
# Input times gradient rounds at every operation, and over all of the model. How much depends on the processor: on one,
# one of the 45 patches of the tiny SigLIP is off by 0.18 of the largest in float16, all others by at most 0.02.
NATIVE_TOLERANCES = {torch.bfloat16: 0.5, torch.float16: 0.25}

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")


def attribute(method_name, family_name, dtype):
    method = made(method_name, tiny_model(family_name, dtype=dtype), **FAMILIES[family_name].options)
    inputs, keywords = tiny_input(family_name, dtype=dtype)
    target = [1, 4, 2] if method.needs_gradients else None
    return method.attribute(inputs, target, forward_kwargs=keywords, return_input_shape=False)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("method_name", "family_name"), CLOSE_PAIRS)
def test_a_half_precision_model_gives_nearly_the_same_map(method_name, family_name, dtype):
    relevance = attribute(method_name, family_name, dtype)

    expected = attribute(method_name, family_name, torch.float32)
    tolerance = (NATIVE_TOLERANCES if method_name == "AttentionAwareRelevance" else TOLERANCES)[dtype]
    assert relevance.dtype is torch.float32
    torch.testing.assert_close(relevance, expected, rtol=0, atol=tolerance * expected.abs().max().item())

"""GradCAM on attention: the authors' two variants, and our definition against slow loops."""

import pytest
import torch
from golden_models import IMAGES, PADDED, TEXTS, assert_golden, load_arrays, load_case
from tiny_models import FAMILIES, tiny_input, tiny_model
from torch.testing import assert_close

from attrib_plugin import AttentionGradCam, capture_attention
from attrib_plugin.errors import InputError, NumericsWarning

TARGETS = [1, 4, 2]
# What the golden README of the original collection measured for these arrays.
TOLERANCE = 1e-11


def assert_as_authors(method, case, target, expected):
    """The authors' numbers; where theirs are 0/0, zeros and a warning."""
    if expected.nan_to_num().any():
        assert_golden(method.attribute(**case.call, target=target, return_input_shape=False), expected, TOLERANCE)
        return 0
    # An entry that the authors' BERT code overwrites afterwards is zero in theirs too.
    assert (expected.isnan() | (expected == 0)).all()
    with pytest.warns(NumericsWarning, match="no head of the layer speaks for the target"):
        relevance = method.attribute(**case.call, target=target, return_input_shape=False)
    assert not relevance.any()
    return int(expected.isnan().any())


def test_the_vit_preset_is_the_authors_map_and_zero_where_theirs_is_not_a_number():
    silent = 0
    for name in IMAGES:
        case = load_case(name)
        method = AttentionGradCam.from_preset("chefer2021_vit", case.model)
        for target in range(case.n_classes):
            expected = load_arrays(name)[f"chefer_vit_new.attn_gradcam.t{target}"]
            silent += assert_as_authors(method, case, target, expected.reshape(1, 1, 4, 4))
    assert silent == 2


def test_the_bert_preset_is_the_authors_row_and_zero_where_theirs_is_not_a_number():
    silent = 0
    for name in TEXTS:
        case = load_case(name)
        method = AttentionGradCam.from_preset("chefer2021_bert", case.model)
        for target in range(case.n_classes):
            expected = load_arrays(name)[f"chefer_bert.generate_attn_gradcam.t{target}"]
            silent += assert_as_authors(method, case, target, expected)
    assert silent == 1


def test_the_bert_preset_on_a_padded_batch_is_the_authors_map_of_each_padded_row():
    case, arrays = load_case(PADDED), load_arrays(PADDED)
    method = AttentionGradCam.from_preset("chefer2021_bert", case.model)

    for target in range(case.n_classes):
        expected = torch.cat([arrays[f"chefer_bert.row{row}.generate_attn_gradcam.t{target}"] for row in range(3)])
        assert_golden(method.attribute(**case.call, target=target), expected, TOLERANCE)


def slow_row(probs, gradients, readout, counted):
    """Our definition, as loops over one sample: heads (H,N,N), read-out (N,), which tokens count (N,)."""
    n_heads, n_tokens, _ = probs.shape
    row = torch.zeros(n_tokens, dtype=torch.float64)
    for query in range(n_tokens):
        for token in range(n_tokens):
            total = 0.0
            for head in range(n_heads):
                weight = float(gradients[head, query][counted].sum()) / int(counted.sum())
                total += weight * float(probs[head, query, token])
            row[token] += float(readout[query]) * max(total / n_heads, 0.0)
    return row


@pytest.mark.filterwarnings("ignore:The relevance of:attrib_plugin.errors.NumericsWarning")
@pytest.mark.parametrize(("family_name", "prefix"), [("bert", 0), ("timm_vit", 1), ("timm_average", 0)])
@pytest.mark.parametrize("layer", [-1, 1])
def test_the_map_is_the_read_out_row_of_heads_weighted_by_their_mean_gradient(family_name, prefix, layer):
    model, (inputs, keywords) = tiny_model(family_name), tiny_input(family_name)
    with capture_attention(model) as captured:
        output = model(inputs, **keywords)
        scores = getattr(output, "logits", output)
        score = scores[torch.arange(3), TARGETS].sum()
        call = captured.calls[layer]
        probs, gradients = call.probabilities(), call.gradient(of=score)
    method = AttentionGradCam(model, layer=layer, **FAMILIES[family_name].options)

    relevance = method.attribute(inputs, TARGETS, forward_kwargs=keywords, return_input_shape=False).flatten(1)

    n_tokens = probs.shape[-1]
    for sample in range(3):
        counted = torch.arange(n_tokens) >= prefix
        if keywords:
            counted &= keywords["attention_mask"][sample].bool()
        readout = (
            torch.full((n_tokens,), 1 / n_tokens, dtype=torch.float64)
            if family_name == "timm_average"
            else torch.eye(n_tokens)[0]
        )
        expected = slow_row(probs[sample], gradients[sample], readout.double(), counted)[prefix:]
        assert_close(relevance[sample], expected, rtol=0.0, atol=1e-12 * max(float(expected.max()), 1e-9))


def test_a_head_that_reads_one_token_leaves_the_choice_of_mean_a_matter_of_scale():
    # Above the last attention only the class token is read, so only its row has a gradient.
    model, (inputs, keywords) = tiny_model("bert"), tiny_input("bert")
    inputs, call = inputs[:1], {"target": 1, "forward_kwargs": {name: value[:1] for name, value in keywords.items()}}

    by_row = AttentionGradCam(model, sign="signed").attribute(inputs, **call)
    by_matrix = AttentionGradCam(model, sign="signed", weights="matrix").attribute(inputs, **call)

    assert_close(by_row, by_matrix * inputs.shape[1], rtol=1e-10, atol=0.0)


def test_a_layer_that_does_not_exist_is_refused():
    inputs, _ = tiny_input("timm_vit")

    with pytest.raises(InputError, match="one of the 3 layers 0 to 2, not 3"):
        AttentionGradCam(tiny_model("timm_vit"), layer=3).attribute(inputs, TARGETS)


@pytest.mark.parametrize("option", ["sign", "weights", "stretch"])
def test_an_unknown_option_is_refused(option):
    with pytest.raises(ValueError, match=f"{option} must be .* not 'whatever'"):
        AttentionGradCam(tiny_model("timm_vit"), **{option: "whatever"})

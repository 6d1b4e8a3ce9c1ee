"""Every array of the reference implementations is compared with something public, or is left out for a reason."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_models import FOLDER, IMAGES, PADDED, TEXTS, assert_golden, load_case

from attrib_plugin import AttentionAwareRelevance, LayerwiseRelevance, TransformerAttribution
from attrib_plugin.propagation import Composite, Epsilon

FULL, EXACT = 1e-7, 1e-12
KINDS = ("linear", "convolution", "attention", "sum", "scaling", "activation", "norm")
GRADIENT_TIMES_INPUT = Composite("gradient times input", dict.fromkeys(KINDS, Epsilon()), start="value")

# Arrays by what is left of their name without row, class, layer and ratio, and the file that compares them.
COMPARED = {
    "test_golden.py": (
        "logits", "attn", "attn_grad.*", "abnar.rollout_res", "abnar.rollout_nores", "chefer_rollout_matrix.*",
        "chefer_vit_new.rollout.*", "mm_generic.R.*", "mm_generic_vit.relevance.*",
    ),
    "test_presets.py": (
        "chefer_vit.last_layer_attn.*", "chefer_bert.generate_attn_last_layer", "chefer_bert.generate_rollout.*",
        "vitexplain.*",
    ),
    "test_golden_relevance.py": (
        "chefer_vit(_origlrp)?.(transformer_attribution|rollout|last_layer|second_layer)(_ablation)?.*",
        "chefer_vit.transformer_attribution_matrix.*", "chefer_vit(_origlrp)?.full.*",
        "chefer_bert(_origlrp)?.(generate_LRP|generate_LRP_last_layer|generate_full_lrp).*",
        "chefer_bert.encoder_input_relevance.*",
        "lxt_(attnlrp|cplrp).relevance_.*",
    ),
    "test_golden_complete.py": (
        "chefer_(vit|bert).attn_cam.*", "lxt_.*grad_word_embeds.*", "lxt_attnlrp_native.*", "lxt_cplrp_torchvision.*",
        "grad_x_input.*", "pred", r".*\.pred.*",
        "chefer_(vit|bert)_origlrp.(last_layer_attn.*|generate_attn_last_layer|generate_rollout.*)",
    ),
    "test_attention_grad_cam.py": ("chefer_vit_new.attn_gradcam.*", "chefer_bert.generate_attn_gradcam.*"),
    "test_image_text_relevance.py": ("clip.*",),
    "../functional/test_bimodal.py": ("lxmert.*", "detr.*"),
    "../functional/flow/test_flow_values.py": ("abnar.flow_.*",),
}  # fmt: skip
LEFT_OUT = {
    "input_ids|attention_mask|pixel_values|targets": "inputs",
    r"(zerorow_|detr_)?in\..*": "inputs of the toy rules",
    "chefer_bert_origlrp.generate_attn_gradcam.*": "attention and gradient do not depend on the rules of relevance, so "
    "these are copies of chefer_bert.generate_attn_gradcam",
}


@pytest.fixture(params=IMAGES)
def image(request):
    return load_case(request.param)


@pytest.fixture(params=TEXTS)
def text(request):
    return load_case(request.param)


@pytest.fixture(params=[*IMAGES, *TEXTS])
def single(request):
    return load_case(request.param)


def names_in(path):
    """The kinds of arrays in a file: their names without rows of a batch."""
    with np.load(path, allow_pickle=False) as stored:
        return {re.sub(r"\.row\d", "", name) for name in stored.files}


# ------------------------------------------------------------------------------------- the register


@pytest.mark.parametrize("path", sorted((FOLDER / "data").glob("*.npz")), ids=lambda path: path.stem)
def test_every_array_is_compared_or_left_out_for_a_reason(path):
    known = re.compile("|".join(pattern for patterns in (*COMPARED.values(), LEFT_OUT) for pattern in patterns))

    unknown = [name for name in names_in(path) if not known.fullmatch(name)]

    assert not unknown


def test_the_register_has_no_pattern_without_an_array_and_no_file_that_is_not_there():
    names = {name for path in (FOLDER / "data").glob("*.npz") for name in names_in(path)}

    for patterns in (*COMPARED.values(), LEFT_OUT):
        for pattern in patterns:
            assert any(re.fullmatch(pattern, name) for name in names), pattern
    for file in COMPARED:
        assert (Path(__file__).parent / file).is_file()


# ------------------------------------------------------------------------------------- what no other file compares


def test_arrays_of_the_predicted_class_are_those_of_the_class_that_our_models_predict(single):
    with torch.no_grad():
        output = single.model(single.inputs, **single.forward_kwargs)
    predicted = int(getattr(output, "logits", output).argmax())
    copies = [name for name in single.arrays if ".pred" in name]

    assert copies
    assert int(single.arrays["pred"]) == predicted
    for name in copies:
        array, own = single.arrays[name], single.arrays[name.replace(".pred", f".t{predicted}")]
        torch.testing.assert_close(array, own, rtol=0, atol=FULL * float(own.nan_to_num().abs().max()), equal_nan=True)


@pytest.mark.parametrize("name", [*IMAGES, *TEXTS])
def test_relevance_of_attention_is_that_of_the_authors_head_by_head(name):
    case, family = load_case(name), "vit" if name in IMAGES else "bert"
    method = TransformerAttribution.from_preset(f"chefer2021_{family}", case.model)

    for target in range(case.n_classes):
        heads = torch.stack(method.head_relevance(**case.call, target=target))
        assert_golden(heads, case.arrays[f"chefer_{family}.attn_cam.t{target}"], FULL)


def test_relevance_of_attention_in_a_padded_batch_is_that_of_the_authors_rows_alone():
    case = load_case(PADDED)
    method = TransformerAttribution.from_preset("chefer2021_bert", case.model)

    for target in range(case.n_classes):
        heads = torch.stack(method.head_relevance(**case.call, target=target))
        for row in range(len(case.inputs)):
            expected = case.arrays[f"chefer_bert.row{row}.attn_cam.t{target}"][:, 0]
            assert_golden(heads[:, row], expected, FULL)


@pytest.mark.parametrize("composite", ["chefer2021_bert", "chefer2021_baseline_bert"])
def test_rows_of_a_padded_batch_are_the_authors_rows_alone_whole(composite):
    case, prefix = load_case(PADDED), "chefer_bert" if composite == "chefer2021_bert" else "chefer_bert_origlrp"
    preset = {"composite": composite}
    rolled = [
        TransformerAttribution.from_preset("chefer2021_bert", case.model, start_layer=start, **preset)
        for start in range(2)
    ]
    partial = TransformerAttribution.from_preset(
        "chefer2021_bert", case.model, layer=-1, weighting="none", special="zero_first", **preset
    )
    full = LayerwiseRelevance.from_preset("chefer2021_bert", case.model, **preset)
    arrays = {"generate_LRP.t{}.s0": rolled[0], "generate_LRP.t{}.s1": rolled[1],
              "generate_LRP_last_layer.t{}": partial, "generate_full_lrp.t{}": full}  # fmt: skip

    for name, method in arrays.items():
        for target in range(case.n_classes):
            found = method.attribute(**case.call, target=target)
            for row in range(len(case.inputs)):
                expected = case.arrays[f"{prefix}.row{row}.{name.format(target)}"]
                assert_golden(found[row : row + 1], expected, FULL)


@pytest.mark.parametrize("name", [*IMAGES, *TEXTS])
@pytest.mark.parametrize("preset", ["lxt_attnlrp", "lxt_cplrp"])
def test_other_runs_of_lxt_gave_what_its_default_run_gave(name, preset):
    case, other = load_case(name), {"lxt_attnlrp": "lxt_attnlrp_native", "lxt_cplrp": "lxt_cplrp_torchvision"}[preset]
    copies = [key for key in case.arrays if key.startswith(f"{other}.")]

    assert bool(copies) == ((name in TEXTS) == (preset == "lxt_attnlrp"))
    for key in copies:
        assert_golden(case.arrays[key.replace(other, preset)], case.arrays[key], EXACT)


@pytest.mark.parametrize("composite", ["attnlrp", "cplrp", GRADIENT_TIMES_INPUT], ids=str)
def test_relevance_of_every_number_of_an_embedding_is_the_number_times_lxts_gradient(text, composite):
    prefix = f"lxt_{composite}" if isinstance(composite, str) else "grad_x_input"
    words = text.model.bert.embeddings.word_embeddings(text.inputs).detach()

    def from_embeddings(inputs, attention_mask):
        return text.model(inputs_embeds=inputs, attention_mask=attention_mask).logits

    method = AttentionAwareRelevance(from_embeddings, model=text.model, composite=composite)

    for target in range(text.n_classes):
        found = method.attribute(words, target, forward_kwargs=text.forward_kwargs)
        assert_golden(found[0], words[0] * text.arrays[f"{prefix}.grad_word_embeds.t{target}"], EXACT)


@pytest.mark.parametrize("name", [*IMAGES, *TEXTS])
def test_a_composite_of_the_epsilon_rule_alone_is_gradient_times_input(name):
    case = load_case(name)
    method = AttentionAwareRelevance(case.model, composite=GRADIENT_TIMES_INPUT)

    for target in range(case.n_classes):
        found = method.attribute(**case.call, target=target)
        if name in IMAGES:
            assert_golden(found.sum(1)[0], case.arrays[f"grad_x_input.relevance_pixels.t{target}"], EXACT)
        else:
            assert_golden(found[0], case.arrays[f"grad_x_input.relevance_word_embeds.t{target}"], EXACT)
        first, *layers = method.layer_relevance(**case.call, target=target)
        assert_golden(first[0], case.arrays[f"grad_x_input.relevance_embedding_output.t{target}"], EXACT)
        assert_golden(torch.cat(layers), case.arrays[f"grad_x_input.relevance_layer_outputs.t{target}"], EXACT)


def test_attention_alone_is_the_same_whatever_the_rules_of_relevance(single):
    names = [
        name for name in single.arrays if re.search(r"_origlrp\.(last_layer_attn|generate_(attn_last|rollout))", name)
    ]

    assert names
    for name in names:
        assert_golden(single.arrays[name], single.arrays[name.replace("_origlrp", "")], EXACT)

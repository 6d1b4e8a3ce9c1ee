"""Bad input: every kind is refused by its own error, which names the remedy, and the model stays as it was."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from tiny_models import EncoderClassifier, tiny_input, tiny_model
from torch import Tensor, nn

from attrib_plugin import GradientRollout, RawAttention, methods
from attrib_plugin.errors import (
    AttributionError,
    InputError,
    NothingCapturedError,
    TargetError,
    UnknownModelError,
    UnsupportedAttentionError,
)

METHODS = {name: getattr(methods, name) for name in methods.__all__}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
# GradCAM on tokens does not ask what the head reads.
READERS = {name: method for name, method in METHODS.items() if name != "TokenGradCam"}
# What GradCAM keeps above zero is often nothing at all in a random model.
may_be_silent = pytest.mark.filterwarnings("ignore:The relevance of:attrib_plugin.errors.NumericsWarning")

BERT, VIT = tiny_model("bert"), tiny_model("timm_vit")
IDS, IMAGES = tiny_input("bert")[0], tiny_input("timm_vit")[0]


def state_of(model: nn.Module) -> tuple[Any, ...]:
    hooks = [len(getattr(module, kind)) for module in model.modules() for kind in vars(module) if "_hooks" in kind]
    flags = [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    return hooks, flags, [module.training for module in model.modules()]


class NeverRun(nn.Module):
    """Wraps a model and fails the test if it is run."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        raise AssertionError("The model was run before its input was checked.")


# Inputs, before the model is run.

BAD_INPUTS = {
    "a vector": (BERT, torch.tensor([3, 4, 5]), r"Expected token ids \(B, T\).*found torch.int64 \(3,\)"),
    "a scalar": (BERT, torch.tensor(3), r"found torch.int64 \(\)"),
    "ids with three axes": (BERT, torch.zeros(2, 3, 4, dtype=torch.long), r"found torch.int64 \(2, 3, 4\)"),
    "floats with two axes": (BERT, torch.rand(2, 4), r"found torch.float32 \(2, 4\)"),
    "bools": (BERT, torch.ones(2, 4).bool(), r"found torch.bool \(2, 4\)"),
    "five axes": (VIT, torch.rand(1, 2, 3, 8, 8), r"found torch.float32 \(1, 2, 3, 8, 8\)"),
    "bytes as images": (VIT, torch.zeros(2, 3, 24, 40, dtype=torch.uint8), r"found torch.uint8 \(2, 3, 24, 40\)"),
    "an image with NaN": (VIT, IMAGES.index_fill(3, torch.tensor([5]), float("nan")), "holds NaN or infinite values"),
    "an image with infinity": (VIT, IMAGES.index_fill(3, torch.tensor([5]), float("inf")), "NaN or infinite"),
    "embeddings with NaN": (BERT, torch.full((2, 4, 32), float("nan")), "holds NaN or infinite values"),
    "no sample": (BERT, torch.zeros(0, 5, dtype=torch.long), r"\(0, 5\) is empty: there is no sample or no token"),
    "no image": (VIT, torch.zeros(0, 3, 24, 40), r"\(0, 3, 24, 40\) is empty"),
    "no token": (BERT, torch.zeros(3, 0, dtype=torch.long), r"\(3, 0\) is empty"),
    "a negative id": (BERT, torch.tensor([[5, -1, 6]]), "Token id -1 is outside the vocabulary of 60 ids"),
    "an id beyond the vocabulary": (BERT, torch.tensor([[5, 60, 6]]), "Token id 60 is outside the vocabulary of 60"),
    "too many tokens": (BERT, torch.full((1, 41), 7), "takes at most 40 tokens, found 41. Truncate the text"),
    "too many embeddings": (BERT, torch.rand(1, 41, 32), "takes at most 40 tokens, found 41"),
    "a wrong image size": (VIT, torch.rand(1, 3, 40, 24), "takes images of 24 x 40 pixels, found 40 x 24. Resize them"),
    "an image for a text model": (BERT, IMAGES, "BertForSequenceClassification reads text, but the input is an image"),
    "ids for an image model": (VIT, IDS, r"VisionTransformer takes images \(B, C, H, W\), found \(3, 7\)"),
    "embeddings for an image model": (VIT, torch.rand(2, 4, 32), r"VisionTransformer takes images \(B, C, H, W\)"),
    "one image without a batch axis": (VIT, IMAGES[0], r"VisionTransformer takes images \(B, C, H, W\)"),
    "an input without values": (BERT, IDS.to("meta"), "The input is on the meta device, where tensors have no values"),
    "embeddings of another width": (BERT, torch.rand(2, 4, 31), r"takes embeddings of 32 dimensions, found 31"),
    "two inputs": (BERT, (IDS, IDS), "a tuple of 2. Give masks and other arguments as additional_forward_args"),
    "an empty tuple": (BERT, (), "a tuple of 0"),
    "a list": (BERT, [IDS], "found list"),
    "a string": (BERT, "a text", "found str"),
    "nothing": (BERT, None, "found NoneType"),
}


@every_method
@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_is_refused_before_the_model_is_run(method, name):
    model, inputs, message = BAD_INPUTS[name]
    before = state_of(model)

    with pytest.raises(InputError, match=message):
        method(NeverRun(model)).attribute(inputs)
    with pytest.raises(ValueError, match=message):
        method(model).attribute(inputs)

    assert state_of(model) == before


@pytest.mark.parametrize(
    ("family_name", "longest"), [("bert", 40), ("distilbert", 40), ("roberta", 38), ("torch_encoder", None)]
)
def test_the_longest_text_is_known_for_each_family(family_name, longest):
    model = tiny_model(family_name)
    readout = None if longest else "mean"
    ids = torch.full((1, longest or 40), 7)

    relevance = RawAttention(model, readout=readout).attribute(ids)

    assert relevance.shape == ids.shape
    if longest is not None:
        with pytest.raises(InputError, match=f"takes at most {longest} tokens, found {longest + 1}"):
            RawAttention(model).attribute(torch.full((1, longest + 1), 7))


@pytest.mark.parametrize("family_name", ["hf_vit", "timm_vit", "torchvision_vit"])
def test_a_wrong_image_size_is_refused_for_each_family_of_fixed_size(family_name):
    with pytest.raises(InputError, match=r"pixels, found 16 x 16\. Resize them"):
        RawAttention(tiny_model(family_name)).attribute(torch.rand(1, 3, 16, 16, dtype=torch.float64))


@every_method
@pytest.mark.parametrize("size", [0, -2])
def test_an_internal_batch_size_below_one_is_refused(method, size):
    with pytest.raises(InputError, match=f"internal_batch_size must be at least 1, not {size}"):
        method(BERT).attribute(IDS, internal_batch_size=size)


@every_method
def test_no_targets_at_all_are_refused(method):
    with pytest.raises(InputError, match="Expected at least one target, found none"):
        method(BERT).attribute_targets(IDS, [])


@every_method
def test_a_mask_for_another_number_of_samples_is_refused(method):
    with pytest.raises(InputError, match=r"forward_kwargs\['attention_mask'\] has 2 rows for 3 samples"):
        method(BERT).attribute(IDS, forward_kwargs={"attention_mask": torch.ones(2, 7)})


@every_method
@pytest.mark.parametrize("name", ["attention_mask", "token_type_ids"])
def test_a_mask_for_another_number_of_tokens_is_refused(method, name):
    # Some models of transformers would pad it, and take real tokens for padding.
    with pytest.raises(InputError, match=rf"forward_kwargs\['{name}'\] is for 3 tokens, but the input has 7"):
        method(BERT).attribute(IDS, forward_kwargs={name: torch.ones(3, 3, dtype=torch.long)})


@every_method
def test_a_cache_of_earlier_keys_is_refused_and_stays_as_it_is(method):
    from transformers import DynamicCache

    cache = DynamicCache()
    cache.update(torch.zeros(3, 4, 2, 8), torch.zeros(3, 4, 2, 8), 0)

    # Newer versions of transformers have the shorter name too.
    for name in ("past_key_values", "cache"):
        with pytest.raises(
            InputError, match=rf"forward_kwargs\['{name}'\] is a cache of keys.*Give all tokens as inputs"
        ):
            method(BERT).attribute(IDS, forward_kwargs={name: cache})

    assert cache.get_seq_length() == 2


# Models.


class Pooled(nn.Module):
    """A transformer over embedded patches that no family knows."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        return self.head((tokens + self.attention(tokens, tokens, tokens)[0]).mean(1))


def pooled() -> nn.Module:
    return Pooled().double().eval()


@pytest.mark.parametrize("method", READERS.values(), ids=READERS)
def test_an_unknown_read_out_is_an_error_that_shows_the_argument(method):
    model = EncoderClassifier().eval()

    with pytest.raises(UnknownModelError, match=r'which tokens the head of .* reads.*\(model, readout="mean"\)'):
        method(model).attribute(IDS)
    assert method(model, readout="mean").attribute(IDS).shape == IDS.shape


@every_method
@may_be_silent
def test_an_unknown_patch_grid_is_an_error_that_shows_the_argument(method):
    model = pooled()

    with pytest.raises(UnknownModelError, match=r"where the 15 tokens of Pooled .*grid=\(3, 5\), prefix_tokens=0\)"):
        method(model, readout="mean").attribute(IMAGES)
    assert method(model, readout="mean", grid=(3, 5)).attribute(IMAGES).shape == IMAGES.shape


def shown_call(error: Exception) -> str:
    """The call that a message shows, as a user would copy it."""
    found = re.search(r"such as: (.*?\)\))\.|such as: (.*?\))\. ", str(error))
    assert found is not None, str(error)
    return next(filter(None, found.groups()))


@pytest.mark.parametrize("method", READERS.values(), ids=READERS)
@may_be_silent
@pytest.mark.parametrize("wrapped", [False, True], ids=["model", "function"])
@pytest.mark.parametrize("kind", ["image", "text"])
def test_the_call_that_the_error_shows_works_as_it_is_copied(method, wrapped, kind):
    model, inputs = (pooled(), IMAGES) if kind == "image" else (EncoderClassifier().eval(), IDS)

    def function(given: Tensor) -> Tensor:
        return model(given)

    with pytest.raises(UnknownModelError) as raised:
        (method(function, model=model) if wrapped else method(model)).attribute(inputs)

    names = {"model": model, "function": function, method.__name__: method}
    copied = eval(shown_call(raised.value), {}, names)
    told = {"grid": (3, 5), "prefix_tokens": 0} if kind == "image" else {}
    expected = method(model, readout="mean", **told).attribute(inputs)
    torch.testing.assert_close(copied.attribute(inputs), expected, rtol=0, atol=1e-12)


@every_method
@pytest.mark.parametrize("options", [{"grid": (4, 5)}, {"grid": (3, 4), "prefix_tokens": 1}, {"prefix_tokens": 2}])
def test_a_grid_that_does_not_fit_the_tokens_is_refused(method, options):
    model, options = (pooled(), options) if "grid" in options else (VIT, options)

    with pytest.raises(UnsupportedAttentionError, match=r"tokens, which are not .* prefix tokens and .* patches"):
        method(model, readout="mean", **options).attribute(IMAGES)


@every_method
def test_a_function_without_its_model_is_refused_at_once(method):
    with pytest.raises(InputError, match=rf"Expected an nn.Module, found function.*{method.__name__}\(function, model"):
        method(lambda images: VIT(images).softmax(-1))


@every_method
def test_a_function_that_does_not_run_its_model_is_refused(method):
    other = tiny_model("timm_average")
    before = state_of(VIT)

    with pytest.raises(NothingCapturedError, match="No attention call was seen in VisionTransformer"):
        method(lambda images: other(images).softmax(-1), model=VIT).attribute(IMAGES)

    assert state_of(VIT) == before


@every_method
def test_a_model_without_attention_is_refused(method):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 40, 5)).double().eval()

    with pytest.raises(NothingCapturedError, match="No attention call was seen in Sequential"):
        method(model, readout="mean", grid=(3, 5)).attribute(IMAGES)


# Outputs.


@every_method
@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda logits: "positive", "Expected the model to return floating scores.*found str"),
        (lambda logits: {"label": 3}, "found dict"),
        (lambda logits: logits.argmax(-1), r"found a torch.int64 tensor \(3,\)"),
        (lambda logits: logits.sum(), r"found a torch.float64 tensor \(\)"),
        (lambda logits: None, "found NoneType"),
        (lambda logits: logits * float("nan"), "output has NaN or infinite values, so there is no score to explain"),
        (lambda logits: logits / 0, "output has NaN or infinite values"),
    ],
    ids=["text", "mapping", "classes", "scalar", "nothing", "NaN", "infinity"],
)
def test_an_output_without_scores_is_refused(method, output, message):
    before = state_of(VIT)

    with pytest.raises(AttributionError, match=message):
        method(lambda images: output(VIT(images)), model=VIT).attribute(IMAGES)

    assert state_of(VIT) == before


@every_method
@may_be_silent
@pytest.mark.parametrize("wrap", [lambda logits: (logits, None), lambda logits: {"other": 3, "scores": logits}])
def test_scores_within_a_tuple_or_a_mapping_are_found(method, wrap):
    relevance = method(lambda images: wrap(VIT(images)), model=VIT).attribute(IMAGES)

    torch.testing.assert_close(relevance, method(VIT).attribute(IMAGES), rtol=0, atol=1e-14)


def test_a_score_without_a_graph_is_refused():
    before = state_of(VIT)

    with pytest.raises(AttributionError, match="its graph is missing"):
        GradientRollout(lambda images: VIT(images).detach(), model=VIT).attribute(IMAGES)

    assert state_of(VIT) == before


def test_a_score_that_leaves_out_some_attention_is_refused():
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = VIT

        def forward(self, images: Tensor) -> Tensor:
            hidden = self.inner.patch_embed(images)
            hidden = self.inner.norm_pre(self.inner._pos_embed(hidden))
            hidden = self.inner.blocks[0](hidden).detach()
            for block in self.inner.blocks[1:]:
                hidden = block(hidden)
            return self.inner.forward_head(self.inner.norm(hidden))

    with pytest.raises(UnsupportedAttentionError, match=r"does not depend on 1 of 3 attention calls"):
        GradientRollout(Cut().eval()).attribute(IMAGES)


# Read-outs.


@every_method
@pytest.mark.parametrize(
    ("readout", "message"),
    [
        ("first", "readout must be 'cls', 'mean', 'last', an int, a LongTensor .* not 'first'"),
        (7, "A readout position must be within the 7 tokens"),
        (-8, "A readout position must be within the 7 tokens"),
        (True, "readout must be .* not True"),
        (1.5, "readout must be .* not 1.5"),
        (torch.tensor([0, 1]), r"must be a LongTensor of shape \(3,\), one for each sample"),
        (torch.tensor([0, 1, 9]), "A readout position must be within the 7 tokens"),
        (torch.tensor([True, False, True]), "must be a LongTensor"),
        (torch.full((6,), 0.5), r"must have shape \(7,\) or \(3, 7\), not \(6,\)"),
        (torch.zeros(7), "must be finite, non-negative and not all zero"),
        (-torch.ones(7), "must be finite, non-negative"),
        (torch.full((7,), float("nan")), "must be finite"),
    ],
    ids=str,
)
def test_a_wrong_read_out_is_refused(method, readout, message):
    before = state_of(BERT)

    with pytest.raises(InputError, match=message):
        method(BERT).attribute(IDS, readout=readout)

    assert state_of(BERT) == before


# Targets.


@pytest.mark.parametrize("target", [5, -6, [0, 1], "positive", torch.tensor([0.5])], ids=repr)
def test_a_wrong_target_is_refused_and_the_model_stays_as_it_was(target):
    before = state_of(VIT)

    with pytest.raises(TargetError, match="Target"):
        GradientRollout(VIT).attribute(IMAGES, target)
    with pytest.raises(TargetError, match="Target"):
        GradientRollout(VIT).attribute(IMAGES, 0, against=target)

    assert state_of(VIT) == before


def test_every_error_of_the_package_is_an_attribution_error():
    kinds = (InputError, TargetError, UnknownModelError, NothingCapturedError, UnsupportedAttentionError)

    assert all(issubclass(kind, AttributionError) for kind in kinds)

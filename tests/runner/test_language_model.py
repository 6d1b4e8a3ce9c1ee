"""Our methods inside Captum's attribution for language models, on a tiny GPT-2 with a tokenizer of its own."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from captum.attr import LayerGradientXActivation, LLMAttributionResult, TextTokenInput
from torch import Tensor, nn

from attrib_plugin import AttentionRollout, GradientRollout, RawAttention, methods
from attrib_plugin.errors import InputError
from attrib_plugin.runner.language_model import LanguageModelAttribution

METHODS = {name: getattr(methods, name) for name in methods.__all__}
WORDS = ["[UNK]", "the", "sky", "is", "blue", "today", "and", "grass", "green", "sea"]
PROMPT, TARGET = "the sky is blue and", "grass is green"
PROMPT_IDS, TARGET_IDS = [1, 2, 3, 4, 6], [7, 3, 8]

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@cache
def tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[UNK]")


@cache
def language_model(implementation: str = "sdpa") -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=len(WORDS), n_positions=24, n_embd=24, n_layer=3, n_head=4, initializer_range=0.3,
        bos_token_id=0, eos_token_id=0, attn_implementation=implementation,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval().double()


def prompt(**options: Any) -> TextTokenInput:
    return TextTokenInput(PROMPT, tokenizer(), **options)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12 * expected.abs().max().item())


def direct(method: Any, generated: int, **options: Any) -> Tensor:
    """The map of the prompt for one generated token, without Captum: ids put together, log-probability as score."""
    model = language_model()
    ids = torch.tensor([PROMPT_IDS + TARGET_IDS[:generated]])

    def log_probability(inputs: Tensor) -> Tensor:
        return model(inputs).logits[:, -1].log_softmax(-1)[:, TARGET_IDS[generated]]

    relevance = method(log_probability, model=model, readout="last", **options).attribute(ids)
    return relevance[0, : len(PROMPT_IDS)]


@every_method
@pytest.mark.filterwarnings("ignore:The relevance of:attrib_plugin.errors.NumericsWarning")
def test_every_generated_token_gets_the_map_of_all_the_tokens_before_it(method):
    explainer = LanguageModelAttribution(method(language_model()), tokenizer())

    result = explainer.attribute(prompt(), target=TARGET)

    assert isinstance(result, LLMAttributionResult)
    expected = torch.stack([direct(method, generated) for generated in range(3)])
    assert_same(result.token_attr, expected)
    assert_same(result.seq_attr, expected.sum(0))
    assert result.input_tokens == PROMPT.split()
    assert result.output_tokens == TARGET.split()


@pytest.mark.parametrize("sign", ["negative", "signed"])
def test_options_of_the_method_are_kept(sign):
    explainer = LanguageModelAttribution(GradientRollout(language_model(), sign=sign), tokenizer())

    result = explainer.attribute(prompt(), target=TARGET)

    assert_same(result.token_attr[2], direct(GradientRollout, 2, sign=sign))


def test_fused_and_eager_attention_give_the_same_result():
    fused, eager = (
        LanguageModelAttribution(GradientRollout(language_model(kind)), tokenizer()) for kind in ("sdpa", "eager")
    )

    result = fused.attribute(prompt(), target=TARGET)

    torch.testing.assert_close(
        result.token_attr, eager.attribute(prompt(), target=TARGET).token_attr, rtol=1e-9, atol=1e-12
    )


def test_captured_attention_of_the_language_model_looks_back_only():
    heads = RawAttention(language_model(), readout="last").head_attention(torch.tensor([PROMPT_IDS]))

    assert len(heads) == 3
    for layer in heads:
        assert not layer.triu(1).any()


def test_a_target_may_be_given_as_ids():
    explainer = LanguageModelAttribution(GradientRollout(language_model()), tokenizer())

    result = explainer.attribute(prompt(), target=torch.tensor(TARGET_IDS))

    assert_same(result.token_attr, explainer.attribute(prompt(), target=TARGET).token_attr)


def test_without_a_target_the_model_generates_one():
    explainer = LanguageModelAttribution(GradientRollout(language_model()), tokenizer())
    options = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False}

    result = explainer.attribute(prompt(), gen_args=options)

    ids = torch.tensor([PROMPT_IDS])
    for _ in range(2):
        # The end token is barred by min_new_tokens.
        following = language_model()(ids).logits[:, -1].index_fill(1, torch.tensor([0]), -torch.inf).argmax(-1)
        ids = torch.cat([ids, following[:, None]], dim=1)
    generated = ids[:, len(PROMPT_IDS) :]
    assert_same(result.token_attr, explainer.attribute(prompt(), target=generated[0]).token_attr)


def test_skipped_tokens_are_left_out_of_the_result_but_not_of_the_model():
    explainer = LanguageModelAttribution(GradientRollout(language_model()), tokenizer())

    result = explainer.attribute(prompt(skip_tokens=["the", "blue"]), target=TARGET)

    whole = explainer.attribute(prompt(), target=TARGET)
    assert result.input_tokens == ["sky", "is", "and"]
    assert_same(result.token_attr, whole.token_attr[:, [1, 2, 4]])


def test_a_read_out_that_was_given_to_the_method_is_kept():
    explainer = LanguageModelAttribution(AttentionRollout(language_model(), readout=1), tokenizer())

    result = explainer.attribute(prompt(), target="grass")

    expected = AttentionRollout(language_model(), readout=1).attribute(torch.tensor([PROMPT_IDS]))
    assert_same(result.token_attr, expected)


def test_arguments_of_attribute_are_passed_on():
    explainer = LanguageModelAttribution(AttentionRollout(language_model()), tokenizer())

    result = explainer.attribute(prompt(), target="grass", readout=2)

    expected = AttentionRollout(language_model(), readout=2).attribute(torch.tensor([PROMPT_IDS]))
    assert_same(result.token_attr, expected)


def test_captums_own_methods_still_work():
    model = language_model()
    explainer = LanguageModelAttribution(LayerGradientXActivation(model, model.transformer.wte), tokenizer())

    result = explainer.attribute(prompt(), target="grass")

    assert result.token_attr.shape == (1, len(PROMPT_IDS))
    assert result.token_attr.isfinite().all()


def test_the_method_and_the_model_are_left_as_they_were():
    model = language_model()
    method = GradientRollout(model)
    before = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]

    LanguageModelAttribution(method, tokenizer()).attribute(prompt(), target=TARGET)

    assert method.forward_func is model
    assert method.readout is None
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()] == before
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


@every_method
def test_a_function_around_the_model_is_refused(method):
    model = language_model()

    with pytest.raises(InputError, match=r"with the language model itself, found a function around GPT2LMHeadModel"):
        LanguageModelAttribution(method(lambda ids: model(ids).logits, model=model), tokenizer())


def test_a_method_that_is_neither_ours_nor_captums_is_refused():
    from captum.attr import Saliency

    with pytest.raises(AssertionError, match="LanguageModelAttribution does not support"):
        LanguageModelAttribution(Saliency(language_model()), tokenizer())

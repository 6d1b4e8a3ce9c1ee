"""Eager attention is followed from its softmax to its product; a softmax that leads to none is never passed over."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from attrib_plugin.capture import CaptureSession, call_gradient, call_probabilities
from attrib_plugin.errors import NothingCapturedError, UnsupportedAttentionError

BATCH, HEADS, TOKENS, DIM = 2, 3, 5, 4


class Attending(nn.Module):
    """Ordinary fused attention, so that something is captured, and then a function of the test."""

    def __init__(self, after):
        super().__init__()
        self.attention = nn.MultiheadAttention(DIM, 2, batch_first=True)
        self.after = after

    def forward(self, hidden):
        hidden, _ = self.attention(hidden, hidden, hidden, need_weights=False)
        return self.after(hidden)


class After(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.codebook = nn.Parameter(torch.randn(1, 7, DIM))

    def forward(self, *arguments):
        return self.function(self, *arguments)


def heads():
    return torch.randn(BATCH, HEADS, TOKENS, DIM, dtype=torch.float64)


def captured(function, *arguments):
    model = After(function).double()
    with CaptureSession(model) as session:
        session.batch_size = BATCH
        model(*arguments)
    return session


def session_on(function):
    """A session on a model that attends, and then does what the function says."""
    model = Attending(After(function)).double().eval()
    with CaptureSession(model) as session:
        model(torch.randn(BATCH, TOKENS, DIM, dtype=torch.float64))
    return session


LOOSE = {
    "thrown away": lambda module, hidden: hidden + 0 * (hidden @ hidden.mT).softmax(-1).sum(),
    "sliced": lambda module, hidden: (hidden @ hidden.mT).softmax(-1)[..., :-1] @ hidden[:, :-1],
    "summed": lambda module, hidden: hidden * (hidden @ hidden.mT).softmax(-1).sum(1)[..., None],
    "multiplied out": lambda module, hidden: ((hidden @ hidden.mT).softmax(-1)[..., None] * hidden[:, None]).sum(2),
    "codebook": lambda module, hidden: hidden + (hidden @ module.codebook.mT).softmax(-1) @ module.codebook,
}


@pytest.mark.parametrize("way", LOOSE)
def test_softmax_without_a_product_with_token_values_is_refused_with_its_module(way):
    session = session_on(LOOSE[way])

    with pytest.raises(UnsupportedAttentionError, match=r"1 softmax operations of Attending .*: after \(2, 5, [57]\)"):
        _ = session.calls


def test_refusal_says_how_many_calls_were_read():
    session = session_on(LOOSE["thrown away"])

    with pytest.raises(UnsupportedAttentionError, match="Reading only the other 1 calls would give a wrong map"):
        _ = session.calls


def test_learned_codebook_is_no_attention():
    session = captured(LOOSE["codebook"], torch.randn(BATCH, TOKENS, DIM, dtype=torch.float64))

    with pytest.raises(UnsupportedAttentionError, match="other 0 calls"):
        _ = session.calls


NO_ATTENTION = {
    "over classes of a sample": lambda module, hidden: hidden.mean(1).softmax(-1),
    "over tokens": lambda module, hidden: hidden.softmax(1),
    "over another axis of four": lambda module, hidden: hidden[:, None].softmax(2),
    "log": lambda module, hidden: hidden.log_softmax(-1),
}


@pytest.mark.parametrize("way", NO_ATTENTION)
def test_softmax_that_is_no_attention_is_left_alone(way):
    session = session_on(NO_ATTENTION[way])

    assert [call.name for call in session.calls] == ["attention"]


@pytest.mark.parametrize(
    "wrapped", [lambda scores: scores, lambda scores: {"logits": scores}, lambda scores: (scores, None)]
)
def test_softmax_on_the_final_output_of_the_model_is_no_attention(wrapped):
    class TokenClassifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(DIM, 2, batch_first=True)
            self.head = nn.Linear(DIM, 7)

        def forward(self, hidden):
            hidden, _ = self.attention(hidden, hidden, hidden)
            return wrapped(self.head(hidden).softmax(-1))

    model = TokenClassifier().double().eval()

    with CaptureSession(model) as session:
        model(torch.randn(BATCH, TOKENS, DIM, dtype=torch.float64))

    assert [call.name for call in session.calls] == ["attention"]


def test_softmax_that_only_a_part_of_the_model_returns_is_not_excused():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = After(lambda module, hidden: (hidden @ hidden.mT).softmax(-1))

        def forward(self, hidden):
            return self.part(hidden).sum(1)

    model = Whole()

    with CaptureSession(model) as session:
        model(torch.randn(BATCH, TOKENS, DIM))

    with pytest.raises(UnsupportedAttentionError, match=r"look like attention.*: part \(2, 5, 5\)"):
        _ = session.calls


def test_softmax_of_a_users_function_around_the_model_is_no_attention():
    model = Attending(nn.Linear(DIM, 7)).double().eval()

    with CaptureSession(model) as session:
        probabilities = model(torch.randn(BATCH, TOKENS, DIM, dtype=torch.float64)).softmax(-1)
        gradients = session.output_gradients(probabilities[:, 2, 3])

    assert [call.name for call in session.calls] == ["attention"]
    assert len(gradients) == 1


def test_mixture_of_two_softmaxes_is_one_call_and_leaves_none_loose():
    def differential(module, hidden):
        first, second = (hidden @ hidden.mT).softmax(-1), (-hidden @ hidden.mT).softmax(-1)
        return (0.75 * first + 0.25 * second) @ hidden

    inputs = torch.randn(BATCH, TOKENS, DIM, dtype=torch.float64)

    session = captured(differential, inputs)

    scores = inputs @ inputs.mT
    (call,) = session.calls
    expected = 0.75 * scores.softmax(-1) + 0.25 * (-scores).softmax(-1)
    assert_close(call_probabilities(call)[:, 0], expected, rtol=0.0, atol=1e-12)


def test_heads_that_are_mixed_after_the_softmax_are_followed_to_the_product():
    mixing = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.2, 0.2, 0.6]], dtype=torch.float64)

    def talking(module, query):
        probabilities = (query @ query.mT).softmax(-1)
        mixed = F.linear(probabilities.permute(0, 2, 3, 1), mixing).permute(0, 3, 1, 2)
        return mixed @ query

    query = heads()

    session = captured(talking, query)

    (call,) = session.calls
    expected = torch.einsum("gh,bhqk->bgqk", mixing, (query @ query.mT).softmax(-1))
    assert_close(call_probabilities(call), expected, rtol=0.0, atol=1e-12)


def test_probabilities_as_changed_after_the_softmax_are_the_ones_recorded():
    def thinned(module, query):
        probabilities = (query @ query.mT).softmax(-1)
        probabilities = probabilities * (probabilities > 0.1)
        return (probabilities / probabilities.sum(-1, keepdim=True)) @ query

    query = heads()

    session = captured(thinned, query)

    (call,) = session.calls
    expected = (query @ query.mT).softmax(-1)
    expected = expected * (expected > 0.1)
    assert_close(call_probabilities(call), expected / expected.sum(-1, keepdim=True), rtol=0.0, atol=1e-12)


def test_product_of_queries_and_keys_is_not_taken_for_the_product_with_values():
    def twice(module, query):
        query = (query @ query.mT).softmax(-1) @ query
        return (query @ query.mT).softmax(-1) @ query

    session = captured(twice, heads())

    assert len(session.calls) == 2
    for call in session.calls:
        assert_close(
            call_probabilities(call).sum(-1),
            torch.ones(BATCH, HEADS, TOKENS, dtype=torch.float64),
            rtol=0.0,
            atol=1e-12,
        )


@pytest.mark.parametrize("product", [torch.matmul, lambda a, b: torch.bmm(a.flatten(0, 1), b.flatten(0, 1)).view_as(a)])
def test_transposed_product_gives_probabilities_with_queries_as_rows(product):
    def transposed(module, query, value):
        probabilities = (query @ query.mT).softmax(-1)
        return product(value.mT, probabilities.mT).mT

    query, value = heads(), heads()
    expected = (query @ query.mT).softmax(-1).requires_grad_()
    weights = torch.randn(BATCH, HEADS, TOKENS, DIM, dtype=torch.float64)
    (expected_gradient,) = torch.autograd.grad(((expected @ value).sin() * weights).sum(), expected)

    model = After(transposed).double()
    with CaptureSession(model) as session:
        session.batch_size = BATCH
        (output_gradient,) = session.output_gradients((model(query, value).sin() * weights).sum())

    (call,) = session.calls
    assert_close(call_probabilities(call), expected.detach(), rtol=0.0, atol=1e-12)
    assert_close(call_gradient(call, output_gradient), expected_gradient, rtol=0.0, atol=1e-12)


# ------------------------------------------------------------------------------------------------- equations

# Equation of scores, equation of the product; the last has one axis for samples and heads together.
EQUATIONS = {
    "as matmul": ("bhqd,bhkd->bhqk", "bhqk,bhkd->bhqd"),
    "result by token": ("bqhd,bkhd->bhqk", "bhqk,bkhd->bqhd"),
    "values first": ("bqhd,bkhd->bhqk", "bkhd,bhqk->bqhd"),
    "with spaces": ("bqhd, bkhd -> bhqk", "b h q k, b k h d -> b q h d"),
    "leading dots": ("...qd,...kd->...qk", "...qk,...kd->...qd"),
    "permuted in between": ("bhqd,bhkd->bhqk", "bqhk,bhkd->bqhd"),
    "keys before queries": ("bhqd,bhkd->bhqk", "bhkq,bhkd->bhqd"),
}
MOVED = {"permuted in between": (0, 2, 1, 3), "keys before queries": (0, 1, 3, 2)}
BY_TOKEN = ("result by token", "values first", "with spaces")


@pytest.mark.parametrize("way", EQUATIONS)
def test_probabilities_of_an_equation_are_recorded_with_queries_as_rows(way):
    scores, equation = EQUATIONS[way]

    def attend(module, query, value):
        probabilities = torch.einsum(scores, query, query).softmax(-1).permute(MOVED.get(way, (0, 1, 2, 3)))
        values_first = equation.replace(" ", "").startswith("bkhd")
        return torch.einsum(equation, *((value, probabilities) if values_first else (probabilities, value)))

    inputs = [heads().transpose(1, 2) if way in BY_TOKEN else heads() for _ in range(2)]
    by_head = [one.transpose(1, 2) if way in BY_TOKEN else one for one in inputs]
    expected = (by_head[0] @ by_head[0].mT).softmax(-1).requires_grad_()
    output = expected @ by_head[1]
    output = output.transpose(1, 2) if way in (*BY_TOKEN, "permuted in between") else output
    weights = torch.randn_like(output)
    (expected_gradient,) = torch.autograd.grad((output.sin() * weights).sum(), expected)

    model = After(attend).double()
    with CaptureSession(model) as session:
        session.batch_size = BATCH
        (output_gradient,) = session.output_gradients((model(*inputs).sin() * weights).sum())

    (call,) = session.calls
    assert_close(call_probabilities(call), expected.detach(), rtol=0.0, atol=1e-12)
    assert_close(call_gradient(call, output_gradient), expected_gradient, rtol=0.0, atol=1e-12)


NO_PRODUCT = {
    "samples behind heads": lambda query, weights: torch.einsum("hbqk,bhkd->bhqd", weights.transpose(0, 1), query),
    "keys kept": lambda query, weights: torch.einsum("bhqk,bhkd->bhqkd", weights, query),
    "queries summed": lambda query, weights: torch.einsum("bhqk,bhkd->bhkd", weights, query),
    "all summed": lambda query, weights: torch.einsum("bhqk,bhkd->bhd", weights, query),
    "no result named": lambda query, weights: torch.einsum("bhqk,bhkd", weights, query),
}


@pytest.mark.parametrize("way", NO_PRODUCT)
def test_equation_that_does_not_tell_queries_from_keys_is_refused(way):
    session = captured(lambda module, query: NO_PRODUCT[way](query, (query @ query.mT).softmax(-1)), heads())

    with pytest.raises(UnsupportedAttentionError, match="1 softmax operations of After look like attention"):
        _ = session.calls


# ---------------------------------------------------------------------------------------- another axis


def test_attention_over_another_axis_is_named_where_nothing_else_was_found():
    session = captured(lambda module, query: query @ (query.softmax(dim=2).mT @ query), heads())

    with pytest.raises(
        NothingCapturedError, match=r"1 products with a softmax over another axis .*axis 2 of \(2, 3, 5"
    ):
        _ = session.calls


def test_a_gate_over_another_axis_is_no_attention_and_is_not_named():
    session = captured(lambda module, query: (query.softmax(dim=1) * query).sum(1), heads())

    with pytest.raises(NothingCapturedError, match="No attention call was seen") as error:
        _ = session.calls
    assert "another axis" not in str(error.value)

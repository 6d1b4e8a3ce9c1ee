"""The graph itself: where it starts and ends, what it writes down, and what it leaves behind."""

import gc
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from propagation_graphs import Calls, run
from torch import nn
from torch.testing import assert_close

from attrib_plugin.capture import CaptureSession
from attrib_plugin.errors import UnsupportedOperationError
from attrib_plugin.propagation import COMPOSITES, Composite, RelevanceGraph, ZPlus, attnlrp, chefer2021

B, T, D, H = 3, 4, 6, 2
TIGHT = {"rtol": 1e-10, "atol": 1e-12}


def tokens(count=B, seed=0):
    return torch.randn(count, T, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Block(nn.Module):
    """A transformer block: norm, fused attention, residual sums, gelu."""

    def __init__(self):
        super().__init__()
        self.before, self.after = nn.LayerNorm(D), nn.LayerNorm(D)
        self.query_key_value, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.up, self.down = nn.Linear(D, 2 * D), nn.Linear(2 * D, D)

    def forward(self, x):
        heads = self.query_key_value(self.before(x)).unflatten(-1, (3, H, D // H)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.after(x))))


class Classifier(nn.Module):
    def __init__(self, fail=None):
        super().__init__()
        self.embedding = nn.Embedding(11, D)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(D, 5)
        self.fail = fail

    def forward(self, x):
        if not x.is_floating_point():
            x = self.embedding(x)
        for block in self.blocks:
            x = block(x)
        if self.fail == "error":
            raise KeyError("the model's own")
        if self.fail == "operation":
            x = x.exp()
        return self.head(x[:, 0])


@pytest.fixture
def model():
    torch.manual_seed(2)
    return Classifier().double().eval()


def target(output, index=1):
    return F.one_hot(torch.full((len(output),), index), output.shape[-1]).to(output)


def relevance(model, inputs, composite):
    found = run(model, inputs, composite)
    return found.relevance(target(found.output))


@pytest.mark.parametrize("name", COMPOSITES)
def test_output_and_gradient_of_a_transformer_are_those_of_the_model_alone(model, name):
    leaf = tokens().requires_grad_()
    plain = model(leaf)

    found = run(model, tokens(), COMPOSITES[name]())

    assert torch.equal(found.output, plain)
    expected = torch.autograd.grad(plain, leaf, target(plain))[0]
    assert_close(found.gradient(target(found.output)), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", COMPOSITES)
def test_samples_of_a_batch_are_explained_as_alone(model, name):
    whole = relevance(model, tokens(), COMPOSITES[name]())

    singles = [relevance(model, tokens()[i : i + 1], COMPOSITES[name]()) for i in range(B)]

    assert_close(whole, torch.cat(singles), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("batch", [2, T])
def test_samples_on_the_second_axis_are_explained_as_alone(batch):
    # With as many samples as tokens, shapes alone do not say which axis is which.
    torch.manual_seed(3)
    layer = nn.TransformerEncoderLayer(D, H, 8, batch_first=False)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double().eval()
    module = Calls(lambda m, x: m.encoder(x.transpose(0, 1)).mean(0), encoder=encoder).eval()
    inputs = tokens(batch)

    singles = [relevance(module, inputs[i : i + 1], chefer2021()) for i in range(batch)]

    assert_close(relevance(module, inputs, chefer2021()), torch.cat(singles), rtol=1e-8, atol=1e-9)


def test_samples_joined_with_tokens_on_one_axis_are_explained_as_alone():
    torch.manual_seed(3)
    module = Calls(
        lambda m, x: (rows := x.flatten(0, 1)).add(m.first(rows)).view(-1, T, D).sum(1), first=nn.Linear(D, D)
    ).double()

    singles = [relevance(module, tokens()[i : i + 1], chefer2021()) for i in range(B)]

    assert_close(relevance(module, tokens(), chefer2021()), torch.cat(singles), rtol=1e-8, atol=1e-9)


# ---------------------------------------------------------------------------------------------- where it starts


def test_token_ids_start_the_graph_at_their_embeddings(model):
    ids = torch.randint(0, 11, (B, T))
    graph = RelevanceGraph(attnlrp(), B, ids=ids)

    with CaptureSession(model, interpreter=graph):
        output = model(ids)
    with graph.propagating():
        found = torch.autograd.grad(output, graph.embeddings, target(output))[0]

    assert_close(found, relevance(model, model.embedding(ids).detach(), attnlrp()), **TIGHT)


def test_other_ids_of_the_same_shape_do_not_start_the_graph(model):
    ids = torch.randint(0, 11, (B, T))
    graph = RelevanceGraph(attnlrp(), B, ids=ids)

    with CaptureSession(model, interpreter=graph):
        model(ids.clone())

    assert graph.embeddings is None


def test_embeddings_may_be_changed_in_place_by_the_model(model):
    ids = torch.randint(0, 11, (B, T))
    module = Calls(lambda m, x: m.inner.embedding(x).add_(1.0).mul_(2).sum(1), inner=model).eval()
    graph = RelevanceGraph(chefer2021(), B, ids=ids)

    with CaptureSession(module, interpreter=graph):
        output = module(ids)

    assert torch.equal(output, module(ids))
    assert torch.equal(graph.embeddings, model.embedding(ids))


def test_tokens_before_and_after_blocks_are_noted_by_name(model):
    found = run(model, tokens(), attnlrp())

    blocks = {block.name: block for block in found.graph.blocks}

    assert [name for name in blocks if name.startswith("blocks.")] == ["blocks.0", "blocks.1"]
    assert blocks["blocks.0"].before is found.inputs
    assert torch.equal(blocks["blocks.1"].before, blocks["blocks.0"].after)
    with found.graph.propagating():
        between = torch.autograd.grad(found.output, blocks["blocks.1"].before, target(found.output))[0]
    assert between.shape == (B, T, D)


# -------------------------------------------------------------------------------------------- what it writes down


def test_the_ledger_says_what_every_operation_received_and_passed_on(model):
    found = run(model, tokens(), chefer2021(), ledger=True)

    at_input = found.relevance(target(found.output))

    flows = found.graph.flows_of_last_pass()
    assert [(flow.kind, flow.module) for flow in flows[:3]] == [
        ("linear", ""),
        ("sum", "blocks.1"),
        ("linear", "blocks.1"),
    ]
    assert_close(flows[0].received, torch.ones(B, dtype=torch.float64), **TIGHT)
    # No rule of this composite keeps anything but that of linear layers, where an output has no positive contribution.
    for flow in flows:
        if flow.kind != "linear":
            assert_close(flow.received, flow.passed, rtol=1e-6, atol=1e-6)
    kept = sum(flow.received - flow.passed for flow in flows)
    assert_close(at_input.sum((1, 2)), 1 - kept, rtol=1e-10, atol=1e-10)


def test_gradients_are_not_written_down(model):
    found = run(model, tokens(), chefer2021(), ledger=True)

    found.gradient(target(found.output))

    assert found.graph.flows_of_last_pass() == []


def test_nothing_is_written_down_without_a_ledger(model):
    found = run(model, tokens(), chefer2021())

    found.relevance(target(found.output))

    assert found.graph.flows_of_last_pass() == []


# ------------------------------------------------------------------------------------------- what it leaves behind


def state_of(model):
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()]
    values = [(p.requires_grad, p.grad, p._version) for p in model.parameters()]
    return hooks, values, [m.training for m in model.modules()]


@pytest.mark.parametrize(
    ("fail", "error", "message"),
    [
        (None, None, ""),
        ("error", KeyError, "own"),
        ("operation", UnsupportedOperationError, "Tensor.exp in 'the model'"),
    ],
)
def test_the_model_is_as_it_was_after_success_and_after_an_exception(fail, error, message):
    torch.manual_seed(2)
    model = Classifier(fail).double().eval()
    before = state_of(model)

    if error is None:
        relevance(model, tokens(), chefer2021())
    else:
        with pytest.raises(error, match=message):
            relevance(model, tokens(), chefer2021())

    assert state_of(model) == before
    model.fail = None
    leaf = tokens().requires_grad_()
    assert model(leaf).grad_fn.name() == "AddmmBackward0"  # the model's own graph again


def test_an_exception_in_a_rule_leaves_the_graph_in_gradient_mode(model):
    def failing(step, message):
        raise ZeroDivisionError("in a rule")

    found = run(model, tokens(), attnlrp().with_rules(sum=failing))

    with pytest.raises(ZeroDivisionError, match="in a rule"):
        found.relevance(target(found.output))

    leaf = tokens().requires_grad_()
    expected = torch.autograd.grad(model(leaf), leaf, target(found.output))[0]
    assert_close(found.gradient(target(found.output)), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["chefer2021", "chefer2021_bert", "attnlrp"])
def test_activations_are_freed_with_the_result_in_hand(model, name):
    kept = []
    handles = [
        module.register_forward_hook(lambda m, i, o: kept.append(weakref.ref(o)))
        for module in model.modules()
        if isinstance(module, (nn.Linear, Block))
    ]
    gc.disable()  # reference counts alone must do: a ring through the engine of autograd is never collected
    try:
        found = relevance(model, tokens(), COMPOSITES[name]())
        alive = [one for one in kept if one() is not None]
    finally:
        gc.enable()
        for handle in handles:
            handle.remove()

    assert found.shape == (B, T, D)
    assert len(kept) > 8
    assert alive == []


def test_threads_explain_one_model_at_once(model):
    names = ["chefer2021", "attnlrp", "chefer2021_vit", "cplrp"]
    expected = {name: relevance(model, tokens(seed=7), COMPOSITES[name]()) for name in names}
    found, errors = {}, []

    def work(name):
        try:
            for _ in range(3):
                found[name] = relevance(model, tokens(seed=7), COMPOSITES[name]())
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    for name in names:
        assert_close(found[name], expected[name], rtol=0, atol=0)


def test_a_session_inside_another_keeps_its_operations_to_itself(model):
    torch.manual_seed(8)
    other, inner = Classifier().double().eval(), []

    def nested(m, x):
        inner.append(relevance(other, tokens(seed=7), attnlrp()))
        return m.body(x)

    expected = relevance(model, tokens(), chefer2021())
    found = relevance(Calls(nested, body=model).eval(), tokens(), chefer2021())

    assert_close(found, expected, rtol=0, atol=0)
    assert_close(inner[0], relevance(other, tokens(seed=7), attnlrp()), rtol=0, atol=0)


def test_a_model_that_catches_an_error_of_its_own_part_goes_on(model):
    class Failing(nn.Module):
        def forward(self, x):
            raise RuntimeError("try something else")

    class FailingRMSNorm(Failing):
        pass

    def careful(m, x):
        for part in (m.failing, m.norm):
            try:
                x = part(x)
            except RuntimeError:
                x = x * 1.0
        return m.body(x)

    module = Calls(careful, failing=Failing(), norm=FailingRMSNorm(), body=model).eval()

    found = relevance(module, tokens(), chefer2021())

    assert_close(found, relevance(model, tokens(), chefer2021()), **TIGHT)


# ------------------------------------------------------------------------------------------------- composites


def test_a_kind_without_a_rule_is_refused_with_the_kinds_that_have_one():
    composite = Composite("small", {"linear": ZPlus()})
    module = Calls(lambda m, x: m.first(x).tanh(), first=nn.Linear(D, D)).double()

    with pytest.raises(UnsupportedOperationError, match=r"'small' has no rule for the activation.*linear.*with_rules"):
        run(module, tokens(), composite)


def test_with_rules_gives_another_composite_and_leaves_the_first():
    composite = attnlrp()

    changed = composite.with_rules(linear_in_attention=ZPlus(), norm=ZPlus())

    assert changed.rule("linear", "blocks.0.attn") == ZPlus()
    assert changed.rule("linear", "blocks.0.mlp") == composite.rule("linear", "blocks.0.mlp") != ZPlus()
    assert composite.rule("linear", "blocks.0.attn") != ZPlus()
    assert changed.name == "attnlrp*"


@pytest.mark.parametrize("name", COMPOSITES)
def test_every_composite_names_itself_and_its_source(name):
    composite = COMPOSITES[name]()

    assert composite.name.startswith(name) or name.startswith("chefer2021_baseline")
    assert composite.reference


def test_a_sum_with_a_constant_has_the_rule_of_sums_outside_attention_only():
    composite = chefer2021()

    assert composite.rule("bias", "encoder") is composite.rule("sum", "encoder")
    assert composite.rule("bias", "encoder.attention.self") is composite.rules["bias in attention"]

"""Whatever happens in a session, the model, its thread and torch are afterwards as they were."""

import threading

import pytest
import torch
import torch.nn.functional as F
from tiny_models import FAMILIES, tiny_input, tiny_model
from torch import nn
from torch.testing import assert_close

from attrib_plugin import AttentionRollout, GradientRollout
from attrib_plugin.capture import CaptureSession
from attrib_plugin.capture.scope import innermost
from attrib_plugin.capture.state import freeze_parameters, installed, modules_of, remove_all

DIM = 8


class FailingBackward(torch.autograd.Function):
    @staticmethod
    def forward(context, tensor):
        return tensor.clone()

    @staticmethod
    def backward(context, gradient):
        raise RuntimeError("backward broke")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(DIM, 3 * DIM)
        self.dropout = nn.Dropout(0.1)

    def forward(self, hidden):
        query, key, value = self.qkv(hidden)[:, None].chunk(3, -1)
        return hidden + self.dropout(F.scaled_dot_product_attention(query, key, value)[:, 0])


class Model(nn.Module):
    """Two attention blocks; may raise between them, in forward or in backward."""

    def __init__(self, error=None, in_backward=False):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(DIM, 3)
        self.error = error
        self.in_backward = in_backward

    def forward(self, hidden):
        hidden = self.blocks[0](hidden)
        if self.in_backward:
            hidden = FailingBackward.apply(hidden)
        if self.error is not None:
            raise self.error
        return self.head(self.blocks[1](hidden).mean(1))


def in_every_state(model):
    """A model with frozen and trained parameters, gradients, hooks of its own and parts in training mode."""
    model.blocks[0].qkv.weight.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    model.eval()
    model.head.train()
    model.blocks[1].register_forward_hook(lambda module, inputs, output: None)
    model.blocks[1].register_forward_pre_hook(lambda module, inputs: None)
    return model


HOOKS = [
    "_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks",
]  # fmt: skip


def snapshot(model):
    """Everything about a model, its thread and torch that a session could leave changed."""
    return {
        "hooks": [{name: dict(getattr(module, name)) for name in HOOKS} for module in model.modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "training": [module.training for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [parameter.grad for parameter in model.parameters()],
        "parameters": [id(parameter) for parameter in model.parameters()],
        "function modes": torch._C._len_torch_function_stack(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "session": innermost(),
        "functions": [F.scaled_dot_product_attention, F.multi_head_attention_forward, F.softmax, torch.matmul],
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "global hooks": len(nn.modules.module._global_forward_hooks) + len(nn.modules.module._global_forward_pre_hooks),
    }


def assert_unchanged(model, before, values):
    after = snapshot(model)
    for name, expected in before.items():
        if name == "gradients":
            assert all(now is then for now, then in zip(after[name], expected, strict=True))
        else:
            assert after[name] == expected, name
    for parameter, value in zip(model.parameters(), values, strict=True):
        assert_close(parameter.detach(), value, rtol=0.0, atol=0.0)


@pytest.fixture(params=[torch.enable_grad, torch.no_grad, torch.inference_mode])
def ambient(request):
    return request.param


@pytest.fixture
def unchanged():
    """Checks at the end of a test that the models given to it are as they were."""
    models = []

    def watch(model):
        models.append((model, snapshot(model), [parameter.detach().clone() for parameter in model.parameters()]))
        return model

    yield watch
    for model, before, values in models:
        assert_unchanged(model, before, values)


def hidden():
    return torch.randn(2, 5, DIM)


# ------------------------------------------------------------------------------------- after a session


def test_nothing_is_left_behind_after_success(unchanged, ambient):
    model = unchanged(in_every_state(Model()))

    with ambient():
        before = snapshot(model)
        with CaptureSession(model) as session:
            session.output_gradients(model(hidden())[:, 0])
        assert_unchanged(model, before, [parameter.detach().clone() for parameter in model.parameters()])

    assert len(session.calls) == 2


@pytest.mark.parametrize(
    "error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, torch.cuda.OutOfMemoryError]
)
def test_nothing_is_left_behind_after_an_error_in_forward(unchanged, ambient, error):
    model = unchanged(in_every_state(Model(error("forward broke"))))

    with ambient():
        before = snapshot(model)
        with pytest.raises(error, match="forward broke"), CaptureSession(model):
            model(hidden())
        assert snapshot(model)["grad mode"] == before["grad mode"]
        assert snapshot(model)["inference mode"] == before["inference mode"]


def test_nothing_is_left_behind_after_an_error_in_backward(unchanged):
    model = unchanged(in_every_state(Model(in_backward=True)))

    with pytest.raises(RuntimeError, match="backward broke"), CaptureSession(model) as session:
        session.output_gradients(model(hidden())[:, 0])


def test_nothing_is_left_behind_after_an_error_of_the_caller(unchanged):
    model = unchanged(in_every_state(Model()))

    def fail(session):
        model(hidden())
        raise ZeroDivisionError(f"after {len(session.calls)} calls")

    with pytest.raises(ZeroDivisionError, match="after 2 calls"), CaptureSession(model) as session:
        fail(session)


def test_session_goes_on_after_an_error_in_forward_that_the_caller_catches(unchanged):
    model = unchanged(in_every_state(Model()))

    with CaptureSession(model) as session:
        for error in (ValueError("forward broke"), KeyboardInterrupt("forward broke")):
            model.error = error
            with pytest.raises(type(error), match="forward broke"):
                model(hidden())
        model.error = None
        model(hidden())

    assert [call.name for call in session.calls] == ["blocks.0", "blocks.0", "blocks.0", "blocks.1"]


def test_nothing_is_left_behind_when_a_module_cannot_be_hooked(unchanged):
    class Unhookable(nn.Module):
        def register_forward_hook(self, *arguments, **keywords):
            raise RuntimeError("hooks are not allowed here")

    model = in_every_state(Model())
    model.blocks.append(Unhookable())
    unchanged(model)

    with pytest.raises(RuntimeError, match="hooks are not allowed here"), CaptureSession(model):
        pass


def test_attention_outside_of_the_model_is_not_recorded_after_an_error_in_forward():
    model = Model(ValueError("forward broke")).eval()

    with CaptureSession(model) as session:
        with pytest.raises(ValueError, match="forward broke"):
            model(hidden())
        Block()(hidden())

    assert [call.name for call in session.calls] == ["blocks.0"]


@pytest.mark.parametrize("method", [AttentionRollout, GradientRollout])
@pytest.mark.parametrize("name", FAMILIES)
def test_no_family_is_changed_by_an_explanation(unchanged, name, method):
    model = unchanged(tiny_model(name))
    inputs, keywords = tiny_input(name)

    method(model, **FAMILIES[name].options).attribute(inputs, forward_kwargs=keywords)


@pytest.mark.parametrize("method", [AttentionRollout, GradientRollout])
def test_explanation_that_fails_in_forward_leaves_nothing_behind(unchanged, method):
    model = unchanged(in_every_state(Model(KeyboardInterrupt("forward broke"))).eval())

    with pytest.raises(KeyboardInterrupt, match="forward broke"):
        method(model, readout="mean").attribute(hidden())


def test_parameters_get_no_gradient_and_need_none_within_a_session(unchanged):
    model = unchanged(in_every_state(Model()))

    with CaptureSession(model):
        flags = [parameter.requires_grad for parameter in model.parameters()]

    assert not any(flags)


def test_shared_parameters_and_modules_are_restored(unchanged):
    model = Model()
    model.blocks[1] = model.blocks[0]
    model.extra = nn.Linear(DIM, 3)
    model.extra.weight = model.head.weight
    unchanged(model)

    with CaptureSession(model) as session:
        model(hidden())

    assert len(session.calls) == 2


def test_model_trains_after_a_session_as_before():
    explained, plain, inputs = Model().eval(), Model().eval(), hidden()

    with CaptureSession(explained) as session:
        session.output_gradients(explained(inputs)[:, 0])
    for model in (explained, plain):
        model(inputs).sum().backward()

    for actual, expected in zip(explained.parameters(), plain.parameters(), strict=True):
        assert_close(actual.grad, expected.grad, rtol=0.0, atol=0.0)


# ------------------------------------------------------------------------------------- sessions that overlap


def test_model_stays_prepared_until_its_last_session_ends(unchanged):
    model = unchanged(in_every_state(Model()))
    opened, release = threading.Event(), threading.Event()

    def hold():
        with CaptureSession(model):
            opened.set()
            release.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    opened.wait(10)
    with CaptureSession(model) as session:
        release.set()
        thread.join()
        gradients = session.output_gradients(model(hidden())[:, 0])
        frozen = not any(parameter.requires_grad for parameter in model.parameters())

    assert frozen
    assert [call.name for call in session.calls] == ["blocks.0", "blocks.1"]
    assert len(gradients) == 2


def test_many_threads_on_one_model_leave_nothing_behind(unchanged):
    model = unchanged(in_every_state(Model()))
    barrier, errors = threading.Barrier(4), []

    def explain(number):
        barrier.wait()
        try:
            for repetition in range(5):
                with CaptureSession(model) as session:
                    session.output_gradients(model(hidden())[:, (number + repetition) % 3])
                assert [call.name for call in session.calls] == ["blocks.0", "blocks.1"]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=explain, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not errors


def test_change_is_made_by_the_first_session_and_undone_by_the_last():
    model, events = nn.Linear(2, 2), []

    def install(module):
        events.append("made")
        return lambda: events.append("undone")

    with installed(model, "change", install):
        with installed(model, "change", install):
            events.append("inside")
        events.append("outside")
    with installed(model, "change", install):
        pass

    assert events == ["made", "inside", "outside", "undone", "made", "undone"]


def test_changes_of_other_names_and_other_models_are_counted_apart():
    first, second, made = nn.Linear(2, 2), nn.Linear(2, 2), []

    def install(module):
        made.append(module)
        return lambda: made.remove(module)

    with installed(first, "one", install), installed(first, "other", install), installed(second, "one", install):
        assert made == [first, first, second]

    assert not made


def test_change_that_cannot_be_made_is_not_counted():
    model = nn.Linear(2, 2)

    def refuse(module):
        raise RuntimeError("cannot be made")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="cannot be made"), installed(model, "refused", refuse):
            pass


def test_freezing_is_undone_for_those_parameters_alone_that_were_trained():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)

    undo = freeze_parameters(model)
    frozen = [parameter.requires_grad for parameter in model.parameters()]
    undo()

    assert frozen == [False] * 4
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, False, True, True]


def test_all_hooks_are_removed():
    model = nn.Linear(2, 2)
    handles = [model.register_forward_hook(print), model.register_forward_pre_hook(print)]

    remove_all(handles)()

    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_modules_are_found_in_the_order_of_named_modules_and_shared_ones_once():
    shared = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    model = nn.ModuleDict({"first": shared, "then": nn.Sequential(nn.Identity(), shared, Block()), "none": Block()})
    model["none"].register_module("absent", None)

    assert modules_of(model) == list(model.named_modules())


def test_a_parameter_that_two_modules_share_is_frozen_and_thawed():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2, bias=False)
    second.weight = first.weight
    first.bias.requires_grad_(False)

    undo = freeze_parameters(nn.Sequential(first, second))

    assert not first.weight.requires_grad
    undo()
    assert first.weight.requires_grad
    assert not first.bias.requires_grad

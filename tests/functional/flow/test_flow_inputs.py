"""What the flow takes and refuses, and long inputs."""

import _thread
import signal
import threading
import time
import tracemalloc

import pytest
import torch
from flow_graphs import random_attention
from torch.testing import assert_close

from attrib_plugin.functional import attention_flow, attention_flow_by_layer

ENGINES = ("scipy", "numba")

EXACT = {"rtol": 0.0, "atol": 1e-12}

every_engine = pytest.mark.parametrize("engine", ENGINES)

# ------------------------------------------------------------------------------------- inputs


def test_outputs_may_be_one_several_negative_repeated_or_a_tensor():
    attention = random_attention("soft", 3, 2, 5)
    every = attention_flow(attention)

    for outputs, tokens in [(2, [2]), (-1, [4]), ([3, 0, 3], [3, 0, 3]), (torch.tensor([1, -2]), [1, 3]), ((), [])]:
        assert_close(attention_flow(attention, outputs=outputs), every[:, tokens], **EXACT)


def test_a_disconnected_source_has_no_flow():
    attention = random_attention("soft", 4, 1, 5)
    attention[0, :, :, 3] = 0.0

    assert not attention_flow(attention, residual=None)[0, :, 3].any()


def test_all_zero_capacities_have_no_flow():
    assert not attention_flow(torch.zeros(5, 1, 4, 4), residual=None).any()


@every_engine
def test_one_token_has_the_flow_of_its_narrowest_edge(engine):
    attention = torch.tensor([0.5, 0.2, 0.9], dtype=torch.float64).reshape(3, 1, 1, 1)

    flows = attention_flow(attention, residual=None, engine=engine)

    assert_close(flows, torch.full((1, 1, 1), 0.2, dtype=torch.float64), **EXACT)


def test_an_empty_batch_gives_an_empty_result():
    assert attention_flow(torch.zeros(3, 0, 4, 4), outputs=[0, 1]).shape == (0, 2, 4)
    assert attention_flow_by_layer(torch.zeros(3, 0, 4, 4)).shape == (3, 0, 4, 4)


@pytest.mark.parametrize(
    ("given_dtype", "dtype"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.float16, torch.float32)],
)
def test_results_keep_the_dtype_and_half_precision_becomes_float32(given_dtype, dtype):
    attention = random_attention("soft", 3, 1, 4).to(given_dtype)

    assert attention_flow(attention).dtype == dtype


def test_attention_is_left_as_it_was():
    attention = random_attention("peaked", 4, 2, 5)
    before = attention.clone()

    attention_flow(attention.requires_grad_(), residual=None)

    assert_close(attention.detach(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 1, 3), r"shape \(layer, batch, token, token\), not \(2, 1, 3\)"),
        ((2, 1, 3, 4), r"not \(2, 1, 3, 4\)"),
        ((0, 1, 3, 3), r"at least one layer"),
        ((2, 1, 0, 0), r"at least one layer and one token"),
    ],
)
def test_a_wrong_shape_is_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        attention_flow(torch.zeros(shape))


@pytest.mark.parametrize(
    ("value", "message"),
    [(float("nan"), "NaN or infinite"), (float("inf"), "NaN or infinite"), (-1e-9, "non-negative")],
)
def test_values_that_are_no_capacities_are_refused(value, message):
    attention = random_attention("soft", 3, 2, 4)
    attention[2, 1, 3, 0] = value

    with pytest.raises(ValueError, match=message):
        attention_flow(attention)


def test_integers_are_refused():
    with pytest.raises(ValueError, match=r"floating dtype, not torch\.int64"):
        attention_flow(torch.ones(2, 1, 3, 3, dtype=torch.int64))


@pytest.mark.parametrize("outputs", [4, -5, [0, 4], True, "cls", 1.0, torch.tensor([0.5])])
def test_outputs_that_are_no_tokens_are_refused(outputs):
    with pytest.raises(ValueError, match="outputs must be tokens between 0 and 3"):
        attention_flow(torch.ones(2, 1, 4, 4), outputs=outputs)


@pytest.mark.parametrize("residual", [-0.1, 1.1])
def test_a_residual_outside_the_unit_interval_is_refused(residual):
    with pytest.raises(ValueError, match="residual must be between 0 and 1"):
        attention_flow(torch.ones(2, 1, 4, 4), residual=residual)


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="engine must be 'auto', 'scipy' or 'numba', not 'fast'"):
        attention_flow(torch.ones(2, 1, 4, 4), engine="fast")


# ------------------------------------------------------------------------------------- long inputs


@pytest.fixture
def _ctrl_c_is_heard():
    """A shell starts what it puts in the background with Ctrl-C ignored; then nothing could interrupt the test."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@every_engine
@pytest.mark.usefixtures("_ctrl_c_is_heard")
def test_a_long_run_can_be_interrupted_and_the_next_is_whole(engine):
    attention = random_attention("peaked", 5, 1, 120)
    attention_flow(attention[:3, :, :5, :5].contiguous(), engine=engine)
    began = time.perf_counter()
    timer = threading.Timer(0.3, _thread.interrupt_main)
    timer.start()

    with pytest.raises(KeyboardInterrupt):
        attention_flow(attention, engine=engine, progress=False)

    assert time.perf_counter() - began < 10
    small = random_attention("peaked", 4, 1, 6)
    assert_close(attention_flow(small, engine=engine), attention_flow(small, engine="scipy"), **EXACT)


def test_progress_is_shown_when_asked_for_and_not_otherwise(capsys):
    attention = random_attention("soft", 3, 1, 5)

    attention_flow(attention, progress=False)
    attention_flow(attention)
    assert capsys.readouterr().err == ""

    attention_flow(attention, progress=True)
    assert "Flow" in capsys.readouterr().err


def test_memory_is_below_one_copy_of_a_stack_of_four_samples():
    attention = random_attention("soft", 6, 4, 96)
    attention_flow(attention, outputs=0, engine="numba")

    tracemalloc.start()
    attention_flow(attention, outputs=0, engine="numba")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < attention.numel() * attention.element_size()

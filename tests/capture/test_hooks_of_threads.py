"""Hooks are shared by all threads: one that runs the model may still call a hook that another has just taken off.

Torch lists the hooks of a module first and asks later which of them take keywords, so such a hook is called without.
"""

import copy
import threading

import pytest
import torch
from tiny_models import tiny_input, tiny_model
from torch.testing import assert_close

from attrib_plugin.capture import CaptureSession, tapped

IMAGES = tiny_input("timm_vit")[0]


class Gate:
    """A hook before those of a session, which waits until the session has ended."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()
        self.thread = None

    def __call__(self, *_):
        if threading.current_thread() is self.thread:
            self.reached.set()
            assert self.opened.wait(20)


def runs_while_a_session_ends(model, gate):
    """What a plain thread gets that is held at the gate while the session of this thread ends."""
    found = []

    def run():
        try:
            found.append(model(IMAGES))
        except BaseException as error:
            found.append(error)

    gate.thread = threading.Thread(target=run)
    with CaptureSession(model) as session, tapped(session):
        gate.thread.start()
        assert gate.reached.wait(20)
    gate.opened.set()
    gate.thread.join()
    return found[0]


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("name", ["", "blocks.1", "blocks.1.attn"])
def test_a_thread_that_runs_the_model_while_the_session_of_another_ends_is_not_disturbed(name, place):
    model, gate = copy.deepcopy(tiny_model("timm_vit")), Gate()
    module = model.get_submodule(name)
    (module.register_forward_pre_hook if place == "before" else module.register_forward_hook)(gate)

    found = runs_while_a_session_ends(model, gate)

    assert isinstance(found, torch.Tensor), found
    assert_close(found, tiny_model("timm_vit")(IMAGES), rtol=0, atol=0)

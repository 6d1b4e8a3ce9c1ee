"""Conservation reports, and rules that are given, unknown or missing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import tiny_input, tiny_model
from torch import Tensor

from attrib_plugin import AttentionAwareRelevance, LayerwiseRelevance, TransformerAttribution
from attrib_plugin.errors import (
    InputError,
    NumericsWarning,
    UnsupportedOperationError,
)
from attrib_plugin.methods.base import find_composite
from attrib_plugin.propagation import Block, Composite, Epsilon, Summands, attnlrp

METHODS = (TransformerAttribution, AttentionAwareRelevance, LayerwiseRelevance)

TO_INPUT = (AttentionAwareRelevance, LayerwiseRelevance)

TARGETS = [1, 4, 2]

BERT = tiny_model("bert")

IDS, MASK = tiny_input("bert")

CALL: dict[str, Any] = {"inputs": IDS, "forward_kwargs": MASK, "target": TARGETS}

methods = pytest.mark.parametrize("method", METHODS)

to_input = pytest.mark.parametrize("method", TO_INPUT)


def assert_same(actual: Tensor, expected: Tensor, relative: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=relative * float(expected.abs().max()))


# ------------------------------------------------------------------------------------------------- conservation


@to_input
def test_the_conservation_report_adds_up(method):
    attribution = method(BERT)
    report = attribution.conservation(**CALL)

    stages = dict(report.stages)
    logits = BERT(IDS, **MASK).logits
    start = (
        logits[range(3), TARGETS].detach()
        if find_composite(attribution.composite).start == "value"
        else torch.ones(3).double()
    )
    assert_same(stages["score"], start, 1e-12)
    layers = attribution.layer_relevance(**CALL)
    names = ["before block 0", "after block 0", "after block 1", "after block 2"]
    for name, tokens in zip(names, layers, strict=True):
        assert_same(stages[name], tokens.sum(-1), 1e-10)
    assert_same(stages["input"], attribution.attribute(**CALL).sum(-1), 1e-10)
    # What operations keep is what is missing at the input: positions and types are sums with constants.
    kept = sum(received - passed for _, received, passed in report.kinds)
    assert_same(stages["input"].mean(), start.mean() - kept, 1e-8)
    assert_same(
        report.error, torch.stack([(one - start).abs() / start.abs() for one in stages.values()]).amax(0), 1e-12
    )


@to_input
def test_the_conservation_report_prints_as_a_table(method):
    report = method(BERT).conservation(**CALL)

    lines = str(report).splitlines()

    assert lines[0] == f"Relevance by {report.composite} (mean over 3 samples)"
    assert [line.split("  ")[0] for line in lines[2:8]] == [
        "score", "after block 2", "after block 1", "after block 0", "before block 0", "input",
    ]  # fmt: skip
    assert lines[9].split() == ["operations", "received", "passed", "on", "kept"]
    assert {line.split()[0] for line in lines[10:]} >= {"linear", "sum", "norm", "activation", "attention"}
    assert len({len(line) for line in lines[9:]}) == 1


@to_input
def test_the_conservation_report_of_parts_of_a_batch_is_that_of_the_whole(method):
    whole, parts = (method(BERT).conservation(**CALL, internal_batch_size=size) for size in (None, 2))

    for (name, expected), (other, found) in zip(whole.stages, parts.stages, strict=True):
        assert name == other
        assert_same(found, expected, 1e-8)
    for (_, *expected), (_, *found) in zip(whole.kinds, parts.kinds, strict=True):
        assert_same(torch.stack(found), torch.stack(expected), 1e-6)


# ---------------------------------------------------------------------------------------------------- composites


@methods
def test_an_unknown_composite_is_refused_with_those_that_are_known(method):
    with pytest.raises(InputError, match=r"There is no composite 'lrp'. Known: attnlrp, .*chefer2021"):
        method(BERT, composite="lrp")


@methods
def test_rules_of_ones_own_are_used(method):
    changed = method(BERT, composite=attnlrp().with_rules(sum=Summands("gamma", gamma=0.7)))

    found = changed.attribute(**CALL)

    assert (found - method(BERT, composite="attnlrp").attribute(**CALL)).abs().max() > 1e-4 * found.abs().max()


@to_input
def test_rules_that_block_everything_give_a_warning_and_zeros(method):
    composite = attnlrp().with_rules(sum=Block())

    with pytest.warns(NumericsWarning, match="3 of 3 samples is zero everywhere: no rule lets any relevance through"):
        found = method(BERT, composite=composite).attribute(**CALL)

    assert not found.any()


@methods
def test_a_composite_without_a_rule_that_is_needed_is_refused(method):
    composite = Composite("linear only", {"linear": Epsilon()})

    with pytest.raises(UnsupportedOperationError, match=r"'linear only' has no rule for the .* operation in"):
        method(BERT, composite=composite).attribute(**CALL)

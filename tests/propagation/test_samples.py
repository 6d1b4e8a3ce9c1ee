"""Which entries of a tensor belong to which sample."""

import pytest
import torch
from torch.testing import assert_close

from attrib_plugin.errors import UnsupportedOperationError
from attrib_plugin.propagation.samples import Samples


@pytest.mark.parametrize(
    ("count", "second", "shape", "axis"),
    [
        (3, False, (3, 5, 2), 0),
        (3, False, (5, 3, 2), 1),
        (3, False, (12, 2), None),
        (3, False, (5, 2, 3), None),
        (3, False, (3, 3, 2), 0),
        (3, True, (3, 3, 2), 1),
        (3, True, (3, 3), 0),
        (1, False, (7, 2), None),
        (1, False, (7, 1, 2), 1),
        (2, False, (2,), 0),
        (2, False, (), None),
    ],
)
def test_axis_of_samples_is_found_by_its_length(count, second, shape, axis):
    assert Samples(count, second).axis(shape) == axis


@pytest.mark.parametrize("shape", [(3, 5, 2), (5, 3, 2), (12, 2), (6, 2, 2)])
def test_sums_are_those_of_each_sample(shape):
    tensor = torch.randn(shape, dtype=torch.float64)
    samples = Samples(3)

    apart = tensor.transpose(0, 1) if samples.axis(shape) == 1 else tensor.reshape(3, -1)

    expected = [2 * sum(apart[i].flatten().tolist()) for i in range(3)]
    assert_close(samples.sums([tensor, tensor]), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_a_tensor_of_no_sample_counts_for_all_alike():
    assert_close(Samples(4).sums([torch.tensor(6.0)]), torch.full((4,), 1.5, dtype=torch.float64), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(3, 5, 2), (5, 3, 2), (12, 2)])
def test_a_rule_gets_samples_on_the_first_axis_and_its_result_is_put_back(shape):
    tensor, seen = torch.randn(shape), []

    def rule(first, second):
        seen.append(len(first))
        return first, 2 * second

    first, second = Samples(3).run(rule, torch.ones(()), tensor)

    assert seen == [3]
    assert torch.equal(first, torch.ones(shape))
    assert torch.equal(second, 2 * tensor)


def test_rows_that_samples_do_not_divide_are_refused():
    with pytest.raises(UnsupportedOperationError, match="internal_batch_size=1"):
        Samples(3).apart(torch.zeros(7, 2))

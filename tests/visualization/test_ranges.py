import numpy as np
import pytest
import torch

from attrib_plugin.errors import InputError
from attrib_plugin.visualization.ranges import as_array, limit_of, norm_of, remark, with_remark

NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "tone", "said"),
    [
        ([1.0, 2.0], "for", ""),
        ([1.0, -2.0], "signed", ""),
        ([0.0, 0.0], "signed", "zero everywhere"),
        ([3.0, 3.0], "share", "3 everywhere"),
        ([-1.0, -2.0], "for", "no value above zero"),
        ([1.0, -2.0], "for", "values below zero left white"),
        ([NAN, 1.0, 2.0], "for", "1 of 3 not a number, grey"),
        ([float("inf"), 0.0], "for", "1 of 2 not a number, grey; zero everywhere"),
        ([NAN, NAN], "for", "no value is a number"),
    ],
)
def test_a_map_without_an_ordinary_look_is_described(values, tone, said):
    assert remark(np.array(values), tone) == said


def test_a_title_carries_the_remark_in_brackets():
    assert with_remark("map", np.zeros(2), "for") == "map (zero everywhere)"
    assert with_remark("map", np.array([0.0, 1.0]), "for") == "map"


def test_the_limit_is_the_largest_size_of_all_maps_and_never_zero():
    assert limit_of([np.array([1.0, NAN]), np.array([-4.0])]) == 4.0
    assert limit_of([np.zeros(3)]) == limit_of([]) == limit_of([np.array([NAN])]) == 1.0


def test_signed_values_have_zero_in_the_middle():
    norm = norm_of(2.0, "signed")

    assert (norm(-2.0), norm(0.0), norm(2.0)) == (0.0, 0.5, 1.0)


def test_roots_give_small_values_more_ink():
    assert norm_of(1.0, "share", "root")(0.25) == pytest.approx(0.5)
    with pytest.raises(InputError, match="scale='linear'"):
        norm_of(1.0, "signed", "root")
    with pytest.raises(InputError, match="'linear' or 'root'"):
        norm_of(1.0, "share", "log")


def test_tensors_of_any_kind_become_arrays():
    tensor = torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True)

    assert as_array(tensor, 2, "a map").dtype == np.float64
    with pytest.raises(InputError, match=r"a map with 1 axes.*\(2, 3\)"):
        as_array(tensor, 1, "a map")

"""What counts as one unit, and its relevance."""

import pytest
import torch

from attrib_plugin.errors import InputError
from attrib_plugin.evaluation import patch_units, token_units
from attrib_plugin.evaluation.units import divide


def test_patches_are_numbered_in_reading_order_and_the_rest_stays():
    mask = patch_units((5, 6), (2, 3))

    expected = [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1], [2, 2, 2, 3, 3, 3], [2, 2, 2, 3, 3, 3], [-1] * 6]
    assert mask[0, 0].tolist() == expected


def test_a_patch_larger_than_the_image_is_refused():
    with pytest.raises(InputError, match=r"No patch of \(4, 4\) pixels fits"):
        patch_units((3, 8), (4, 4))


def test_kept_tokens_are_never_removed():
    ids = torch.tensor([[1, 7, 8, 2, 0], [1, 9, 2, 0, 0]])

    assert token_units(ids, keep=(0, 1, 2)).tolist() == [[-1, 1, 2, -1, -1], [-1, 1, -1, -1, -1]]


def test_a_pixel_is_one_unit_with_all_its_channels():
    images = torch.rand(2, 3, 2, 5)
    maps = torch.arange(60.0).reshape(2, 3, 2, 5)

    units = divide(images, maps)

    torch.testing.assert_close(units.relevance, maps.double().sum(1).flatten(1))
    assert units.counts.tolist() == [10, 10]
    assert units.index.shape == (2, 1, 2, 5)


def test_a_map_of_one_channel_gives_the_order_of_its_copies():
    images, one = torch.rand(2, 3, 2, 5), torch.rand(2, 1, 2, 5)

    torch.testing.assert_close(
        divide(images, one).relevance, divide(images, one.expand(-1, 3, -1, -1)).relevance, rtol=0, atol=1e-12
    )


def test_cells_of_a_patch_map_are_the_patches_of_the_pixel_map():
    images, patches = torch.rand(2, 3, 4, 6), torch.rand(2, 1, 2, 3)
    pixels = patches.repeat_interleave(2, 2).repeat_interleave(2, 3)

    by_cells = divide(images, patches)
    by_mask = divide(images, pixels, patch_units((4, 6), (2, 2)))

    assert torch.equal(by_cells.index, by_mask.index)
    torch.testing.assert_close(by_mask.relevance, 12 * by_cells.relevance, rtol=0, atol=1e-6)


def test_copies_of_one_value_stay_equal_in_every_patch():
    pixels = torch.full((1, 3, 4, 6), 0.1)

    relevance = divide(torch.rand(1, 3, 4, 6), pixels, patch_units((4, 6), (2, 2))).relevance

    assert len(relevance.unique()) == 1


@pytest.mark.parametrize("last", [False, True])
def test_embeddings_are_removed_by_token(last):
    embeddings, maps = torch.rand(2, 4, 3), torch.rand(2, 4)
    given = maps[..., None].expand(-1, -1, 3) / 3 if last else maps / 3

    units = divide(embeddings, given)

    torch.testing.assert_close(units.relevance.float(), maps)
    assert units.index.shape == (2, 4, 1)


def test_words_are_units_when_the_mask_says_so():
    ids = torch.tensor([[1, 7, 8, 9, 2]])
    relevance = torch.tensor([[9.0, 1.0, 2.0, 4.0, 9.0]])

    units = divide(ids, relevance, torch.tensor([[-1, 0, 0, 1, -1]]))

    assert units.relevance.tolist() == [[3.0, 4.0]]
    assert units.element_ranks("most").tolist() == [[2, 1, 1, 0, 2]]


@pytest.mark.parametrize(
    ("inputs", "maps"),
    [
        (torch.rand(2, 3, 4, 6), torch.rand(2, 2, 4, 6)),
        (torch.rand(2, 3, 4, 6), torch.rand(1, 3, 4, 6)),
        (torch.rand(2, 3, 4, 6), torch.rand(2, 4, 6)),
        (torch.rand(2, 3, 4, 6), torch.rand(2, 3, 1, 1)),
        (torch.zeros(2, 5).long(), torch.rand(2, 4)),
        (torch.zeros(2, 5).long(), torch.rand(2, 1)),
        (torch.rand(2, 5, 3), torch.rand(2, 3)),
    ],
)
def test_maps_of_another_shape_are_refused(inputs, maps):
    with pytest.raises(InputError, match=r"do not fit inputs"):
        divide(inputs, maps)


def test_a_grid_that_does_not_divide_the_image_is_refused():
    with pytest.raises(InputError, match="2 x 4 does not divide an image of 4 x 6 evenly"):
        divide(torch.rand(2, 3, 4, 6), torch.rand(2, 1, 2, 4))
    with pytest.raises(InputError, match="Leave feature_mask out"):
        divide(torch.rand(2, 3, 4, 6), torch.rand(2, 1, 2, 3), patch_units((4, 6), (2, 2)))


def test_masks_that_cannot_be_are_refused():
    images, maps = torch.rand(2, 3, 4, 6), torch.rand(2, 3, 4, 6)
    with pytest.raises(InputError, match=r"feature_mask of integers, found torch.float32"):
        divide(images, maps, torch.rand(1, 1, 4, 6))
    with pytest.raises(InputError, match=r"shape \(1, 1, 5, 6\) does not fit"):
        divide(images, maps, torch.zeros(1, 1, 5, 6).long())
    ids = torch.tensor([[1, 7, 2], [1, 2, 0]])
    with pytest.raises(InputError, match="Sample 1 has no unit that may be removed"):
        divide(ids, torch.rand(2, 3), token_units(ids, keep=(0, 1, 2)))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_map_that_is_not_finite_is_refused(bad):
    maps = torch.rand(3, 4)
    maps[2, 1] = bad

    with pytest.raises(InputError, match="sample 2 holds NaN or infinite"):
        divide(torch.zeros(3, 4).long(), maps)


def test_an_empty_map_is_refused():
    with pytest.raises(InputError, match="maps with values"):
        divide(torch.rand(2, 0), torch.rand(2, 0))

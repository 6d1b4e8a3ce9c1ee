import pytest
import torch

from attrib_plugin.postprocessing import grid_to_pixels, tokens_to_grid


def test_patches_are_laid_out_row_by_row_without_the_prefix():
    relevance = torch.arange(2 * 8.0).reshape(2, 8)

    grid = tokens_to_grid(relevance, (2, 3), prefix_tokens=2)

    torch.testing.assert_close(grid[0, 0], torch.tensor([[2.0, 3.0, 4.0], [5.0, 6.0, 7.0]]))
    assert grid.shape == (2, 1, 2, 3)


def test_every_pixel_of_a_patch_gets_its_value():
    patches = torch.arange(6.0).reshape(1, 1, 2, 3)

    pixels = grid_to_pixels(patches, (8, 15))

    torch.testing.assert_close(pixels, patches.repeat_interleave(4, 2).repeat_interleave(5, 3))


def test_bilinear_pixels_keep_a_constant_map_constant():
    pixels = grid_to_pixels(torch.full((1, 1, 2, 3), 0.25), (7, 9), mode="bilinear")

    torch.testing.assert_close(pixels, torch.full((1, 1, 7, 9), 0.25))


def test_another_mode_is_refused():
    with pytest.raises(ValueError, match="'nearest' or 'bilinear'"):
        grid_to_pixels(torch.zeros(1, 1, 2, 2), (4, 4), mode="cubic")


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_pixels_beyond_the_last_patch_get_zero(mode):
    pixels = grid_to_pixels(torch.ones(1, 1, 2, 3), (9, 13), mode=mode, patch_size=(4, 4))

    expected = torch.zeros(1, 1, 9, 13)
    expected[..., :8, :12] = 1
    torch.testing.assert_close(pixels, expected)


def test_patches_over_the_border_are_cut_at_the_edge_of_the_image():
    patches = torch.arange(6.0).reshape(1, 1, 2, 3)

    pixels = grid_to_pixels(patches, (7, 10), patch_size=(4, 4))

    torch.testing.assert_close(pixels, patches.repeat_interleave(4, 2).repeat_interleave(4, 3)[..., :7, :10])

"""Maps against masks: worked examples, the slow protocol of the segmentation test, bad input."""

import pytest
import torch

from attrib_plugin.errors import InputError
from attrib_plugin.evaluation import SegmentationScore, cell_shares, mass_inside, pointing_game, share_in_cell

MAP = torch.tensor([[[4.0, 1.0, 0.0], [3.0, -5.0, 2.0]]])
LEFT = torch.tensor([[[True, False, False], [True, False, False]]])


def test_the_highest_value_is_on_the_object_or_not():
    assert pointing_game(MAP, LEFT).tolist() == [1.0]
    assert pointing_game(MAP, ~LEFT).tolist() == [0.0]


def test_shared_highest_values_give_the_chance_of_hitting():
    shared = torch.tensor([[[4.0, 4.0, 4.0], [4.0, -5.0, 2.0]]])

    # Of four highest places two are in the left column.
    assert pointing_game(shared, LEFT).tolist() == [0.5]
    assert pointing_game(torch.ones(1, 2, 3), LEFT).tolist() == [pytest.approx(1 / 3)]


@pytest.mark.parametrize(("tolerance", "hit"), [(0.0, 0.0), (1.0, 0.0), (1.4, 0.0), (1.5, 1.0), (9.0, 1.0)])
def test_near_the_object_counts_within_the_euclidean_tolerance(tolerance, hit):
    mask = torch.zeros(1, 4, 5, dtype=torch.bool)
    mask[0, 2, 3] = True
    maps = torch.zeros(1, 4, 5)
    maps[0, 1, 2] = 1.0  # a diagonal step away: 1.414 pixels

    assert pointing_game(maps, mask, tolerance=tolerance).tolist() == [hit]


def test_mass_inside_counts_positive_values_only():
    # 4 + 3 of 4 + 1 + 3 + 2.
    assert mass_inside(MAP, LEFT).tolist() == [0.7]
    # 1 + 2 of the same: the -5 is inside and counts as none.
    assert mass_inside(MAP, torch.tensor([[[False, True, False], [False, True, True]]])).tolist() == [0.3]


def test_a_map_without_positive_values_has_put_nothing_anywhere():
    assert mass_inside(-torch.ones(1, 2, 3), LEFT).tolist() == [0.0]
    assert mass_inside(torch.zeros(1, 2, 3), LEFT).tolist() == [0.0]
    assert cell_shares(torch.zeros(1, 2, 4)).tolist() == [[0.0] * 4]


def test_a_constant_map_has_the_share_of_the_area_inside():
    torch.testing.assert_close(mass_inside(torch.ones(1, 2, 3), LEFT), torch.tensor([1 / 3], dtype=torch.float64))


def test_channels_are_averaged():
    maps = torch.rand(2, 3, 4, 5)
    masks = torch.rand(2, 4, 5) < 0.5

    torch.testing.assert_close(mass_inside(maps, masks), mass_inside(maps.double().mean(1), masks))
    assert torch.equal(pointing_game(maps, masks[:, None]), pointing_game(maps, masks))


def test_quadrants_are_those_of_the_digit_canvases():
    from attrib_plugin.app.digit_canvases import quadrant_slices

    maps = torch.randn(5, 1, 8, 8)

    shares = cell_shares(maps)

    for one, found in zip(maps[:, 0].double().clamp(min=0), shares, strict=True):
        expected = torch.stack([one[quadrant_slices(number, 8)].sum() for number in range(4)]) / one.sum()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_share_in_the_right_cell_of_a_mosaic():
    maps = torch.tensor([[[1.0, 2.0, 3.0]], [[0.0, 1.0, -4.0]]])  # (2, 1, 3): one row of three cells

    found = share_in_cell(maps, torch.tensor([2, 0]), rows=1, columns=3)

    assert found.tolist() == [0.5, 0.0]
    with pytest.raises(InputError, match="cell from 0 to 2 for each of 2 maps"):
        share_in_cell(maps, torch.tensor([3, 0]), rows=1, columns=3)
    with pytest.raises(InputError, match="Cells of 2 x 2 do not divide a map of 1 x 3"):
        cell_shares(maps)


def slow_segmentation(maps, masks):
    """Image by image, as the authors' evaluation does it; average precision by scikit-learn."""
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the oracle here")
    correct = labelled = 0
    intersection, union, precisions = [0, 0], [0, 0], []
    for one, mask in zip(maps, masks, strict=True):
        scaled = (one - one.min()) / (one.max() - one.min())
        found = [int(value > scaled.mean()) for value in scaled.flatten()]
        true = mask.flatten().tolist()
        known = [place for place, side in enumerate(true) if side >= 0]
        correct += sum(found[place] == true[place] for place in known)
        labelled += len(known)
        for side in (0, 1):
            intersection[side] += sum(found[place] == side and true[place] == side for place in known)
            union[side] += sum(found[place] == side or true[place] == side for place in known)
        values = scaled.flatten().tolist()
        items = [(1 - values[place], true[place] == 0) for place in known]
        items += [(values[place], true[place] == 1) for place in known]
        precisions.append(metrics.average_precision_score([hit for _, hit in items], [score for score, _ in items]))
    iou = [inside / both for inside, both in zip(intersection, union, strict=True)]
    return correct / labelled, sum(precisions) / len(precisions), sum(iou) / 2


def test_segmentation_agrees_with_the_slow_protocol_over_batches():
    maps, masks = torch.rand(5, 4, 7, dtype=torch.float64), (torch.rand(5, 4, 7) < 0.4).long()
    masks[1, 0] = -1
    score = SegmentationScore()

    score.update(maps[:2], masks[:2])
    score.update(maps[2:, None], masks[2:])

    torch.testing.assert_close(
        torch.tensor(score.compute()), torch.tensor(slow_segmentation(maps, masks)), rtol=0, atol=1e-12
    )


def test_segmentation_of_a_worked_example():
    # Scaled 1, 3/4, 1/4, 0; mean 1/2: object, object, background, background. True: object, then three background.
    # Correct 3 of 4. Object: 1 of 2; background: 2 of 3; mean IoU 7/12.
    score = SegmentationScore()

    score.update(torch.tensor([[[5.0, 4.0, 2.0, 1.0]]]), torch.tensor([[[1, 0, 0, 0]]]))
    found = score.compute()

    assert found.pixel_accuracy == 0.75
    assert found.mean_iou == pytest.approx(7 / 12)
    # Items by score: 1 (object, hit; background of the last pixel, hit) 2 of 2, then 3/4 (miss; background of the
    # third, hit) 3 of 4, then 1/4 (miss; background of the second, hit) 4 of 6: 1/2 + 1/4 * 3/4 + 1/4 * 4/6.
    assert found.mean_average_precision == pytest.approx(1 / 2 + 3 / 16 + 1 / 6)


def test_a_perfect_map_scores_one_and_its_negative_none():
    mask = torch.tensor([[[1, 0, 0], [1, 1, 0]]])
    good, bad = SegmentationScore(), SegmentationScore()

    good.update(mask.double(), mask)
    bad.update(-mask.double(), mask)

    assert good.compute() == (1.0, 1.0, 1.0)
    assert bad.compute().pixel_accuracy == bad.compute().mean_iou == 0.0


def test_a_constant_map_is_all_background():
    score = SegmentationScore()

    score.update(torch.full((1, 2, 3), 7.0), LEFT)

    # Background: 4 right of 6, object: nothing found. All items "background" come first: 4 of 6, then 6 of 12.
    assert score.compute().pixel_accuracy == pytest.approx(4 / 6)
    assert score.compute().mean_iou == pytest.approx(4 / 6 / 2)
    assert score.compute().mean_average_precision == pytest.approx(4 / 6 * 4 / 6 + 2 / 6 * 6 / 12)


def test_empty_masks_are_refused_where_there_must_be_an_object():
    masks = torch.cat([LEFT, torch.zeros_like(LEFT)])
    maps = MAP.expand(2, -1, -1)

    for score in (pointing_game, mass_inside):
        with pytest.raises(InputError, match="The mask of image 1 is empty"):
            score(maps, masks)
    segmentation = SegmentationScore()
    segmentation.update(maps, masks)
    assert 0 < segmentation.compute().pixel_accuracy < 1
    with pytest.raises(InputError, match="no labelled pixel"):
        segmentation.update(MAP, torch.full((1, 2, 3), -1))


def test_sizes_that_differ_and_broken_maps_are_refused():
    with pytest.raises(InputError, match=r"Masks of \(1, 2, 3\) and maps of \(1, 4, 3\)"):
        mass_inside(torch.rand(1, 4, 3), LEFT)
    with pytest.raises(InputError, match=r"Expected maps \(B, H, W\)"):
        mass_inside(torch.rand(2, 3), LEFT)
    with pytest.raises(InputError, match="NaN or infinite"):
        SegmentationScore().update(MAP / 0, LEFT)
    with pytest.raises(InputError, match="nothing to score yet"):
        SegmentationScore().compute()

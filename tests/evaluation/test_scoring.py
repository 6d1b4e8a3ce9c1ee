"""Scores in the form that a comparison of methods takes."""

from functools import partial

import torch

from attrib_plugin.evaluation import mass_inside, score_of_map, symmetric_relevance_gain


def test_a_score_of_the_map_is_called_like_those_that_need_the_model():
    masks = torch.tensor([[[True, False], [False, False]]])
    maps = torch.tensor([[[[3.0, 1.0], [0.0, 0.0]]]])
    model, images = torch.nn.Flatten(), torch.tensor([[[[1.0, 5.0], [0.0, 0.0]]]])
    scores = {"inside": score_of_map(mass_inside, masks), "gain": partial(symmetric_relevance_gain, baselines=0.0)}

    found = {name: score(model, images, maps, target=1, forward_kwargs={}) for name, score in scores.items()}

    assert found["inside"].tolist() == [0.75]
    # The score is pixel 1. It goes second in the order of the map, third from the other end (ties as they stand):
    # most first 5 5 0 0 0, area 7.5 / 4; least first 5 5 5 0 0, area 12.5 / 4.
    assert found["gain"].tolist() == [1.25]

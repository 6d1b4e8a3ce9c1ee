"""Do the tokens of the last layer still stand for their own place? On that GradCAM on tokens rests.

Run: python benchmarks/token_locality.py [--samples 16]

On a picture of several things all cells but one are replaced by those of another picture. How far do the tokens of that
one cell change, as what the last attention reads? 0: not at all, each token knows its own cell alone; 1: as far as if
the cell itself had been replaced.
"""

import argparse

import torch
from faithfulness_task import Task
from faithfulness_tasks import TASKS
from torch import Tensor

from attrib_plugin.evaluation import Interval, mean_interval


def change_of_tokens(task: Task) -> Interval:
    """Change by the other cells, as a share of the change by the cell itself."""
    truth = task.truth
    size = task.inputs.shape[-2:]
    inside = torch.nn.functional.interpolate(truth, size) > 0.5
    # A picture of other things: with classes asked in turn, the next sample may be of the same picture.
    step = 1 if task.groups is None else int((task.groups == 0).sum())
    other = task.inputs.roll(step, 0)
    with_others = torch.where(inside, task.inputs, other)
    replaced = torch.where(inside, other, task.inputs)
    kept, with_others, replaced = (_tokens(task, images) for images in (task.inputs, with_others, replaced))
    weights = truth.flatten(1)
    by_others = ((kept - with_others).norm(dim=-1) * weights).sum(1)
    by_itself = ((kept - replaced).norm(dim=-1) * weights).sum(1)
    # Now and then the other picture has the same photograph in the same cell.
    differs = by_itself > 0
    groups = None if task.groups is None else task.groups[differs]
    return mean_interval(by_others[differs] / by_itself[differs], groups=groups)


def _tokens(task: Task, images: Tensor) -> Tensor:
    """The patches that the last attention reads (batch, patch, dim)."""
    found: list[Tensor] = []
    handle = task.model.blocks[-1].norm1.register_forward_hook(lambda _, __, output: found.append(output))
    try:
        with torch.no_grad():
            task.model(images)
    finally:
        handle.remove()
    return found[0][:, task.model.num_prefix_tokens :]


def main(samples: int) -> None:
    torch.set_num_threads(1)
    for name in ("multi-digits", "photo mosaics"):
        mean, low, high = change_of_tokens(TASKS[name](samples))
        print(f"{name}: {mean:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=16)
    main(parser.parse_args().samples)

"""What a task of ``faithfulness.py`` is: a trained model, labelled inputs, and the truth where there is one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
SEED = 7
sys.path.insert(0, str(ROOT / "scripts"))  # the scripts that trained the models know their held-out data


@dataclass(frozen=True)
class Task:
    """A model, inputs that it classifies as people do, and what is known about them.

    Attributes:
        name: Name of the task.
        about: One line on model and data, for the page.
        model: Unmodified.
        inputs: One row a sample.
        targets: The class asked for, which is the true one.
        others: A class that is not it.
        fill: What a removed unit becomes.
        steps: Steps of the curves; ``None`` is one unit a step.
        arguments: Further positional arguments of the model.
        feature_mask: For text: unit of every token, -1 at special tokens.
        truth: A map of the truth, where there is one.
        cells: Cell of the mosaic that holds the object.
        mosaic: Rows and columns of the mosaic.
        groups: Picture of every sample, where several classes are asked of one picture.
        masks: Pixels of the object.
        rationales: Tokens that people would mark.
        black: What black is to the model, where the pixel test is run.
        robustness: Whether noise and randomised weights are tried.
        ablated: Units side by side that the occlusion oracle removes at once.
        gradient_steps: Steps of Integrated Gradients.
        curves: Whether units are removed at all.
        probability: What turns scores into probabilities, where the classes do not exclude each other.
    """

    name: str
    about: str
    model: nn.Module
    inputs: Tensor
    targets: Tensor
    others: Tensor
    fill: Any
    steps: int | None = None
    arguments: tuple[Tensor, ...] = ()
    feature_mask: Tensor | None = None
    truth: Tensor | None = None
    cells: Tensor | None = None
    mosaic: tuple[int, int] = (2, 2)
    groups: Tensor | None = None
    masks: Tensor | None = None
    rationales: Tensor | None = None
    black: Any = None
    robustness: bool = False
    ablated: int = 1
    gradient_steps: int = 20
    curves: bool = True
    probability: Callable[[Tensor], Tensor] | None = None

    @property
    def is_text(self) -> bool:
        """Whether the inputs are token ids."""
        return self.inputs.dim() == 2

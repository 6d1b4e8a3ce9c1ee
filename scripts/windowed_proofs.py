"""Proofs for models that attend within windows and merge tokens between stages.

Which token is in which slot of which window is asked of the model's own blocks, by autograd: each is given an image of
equal tokens, so that the gradient of a weighted sum over its queries tells the weight, and so the slot, of every token.
With that, attention in the open becomes attention between all tokens of a stage, and the package's maps are compared
with products of those. It shares no code with the package, which follows tokens through the operations instead.
"""

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from open_attention import Case, OpenAttention, agree
from torch import Tensor, nn

from attrib_plugin import AttentionRollout, GradientRollout

_BLOCKS = (
    *("SwinTransformerBlock", "SwinTransformerV2Block", "SwinTransformerV2CrBlock"),
    *("SwinLayer", "Swinv2Layer", "DonutSwinLayer"),
)
_REACHED = 1e-30
"""What a mask of -100 hides has a share of exp(-100); in float64 that is not zero."""


@dataclass(frozen=True, eq=False)
class Stage:
    """One block with the call of attention that it makes.

    Attributes:
        grid: Rows and columns of its tokens.
        slots: Number of the slot of every token, counted through all windows of the batch: batch, token.
    """

    grid: tuple[int, int]
    slots: Tensor


def failed_windowed_proofs(case: Case) -> list[str]:
    """Names of the proofs that the model fails, of those that are about the tokens of the whole image.

    Args:
        case: The model and its inputs.

    Returns:
        Empty if everything is proven.
    """
    # What a token does not reach is exactly zero only where nothing is rounded to zero on the way.
    case = replace(case, model=copy.deepcopy(case.model).double(), inputs=case.inputs.double())
    blocks = [module for module in case.model.modules() if type(module).__name__ in _BLOCKS]
    with OpenAttention() as seen:
        output = case.run()
        gradients = torch.autograd.grad(case.score(output), seen.probabilities)
    probabilities = [one.detach() for one in seen.probabilities]
    if len(blocks) != len(probabilities):
        return [f"{len(probabilities)} attentions in {len(blocks)} blocks"]
    stages = _stages(case, blocks)
    if isinstance(stages, str):
        return [stages]
    whole = [
        # Some libraries take the softmax in float32 whatever the model is in.
        (_between_tokens(values.double(), stage), _between_tokens(slopes.double(), stage))
        for values, slopes, stage in zip(probabilities, gradients, stages, strict=True)
    ]
    failed = _failed_by_read_out(case, whole, stages)
    failed += _failed_by_mixing(case, stages)
    failed += _failed_by_reach(case, blocks[-1], stages)
    return failed + _failed_by_corners(case, stages)


# -------------------------------------------------------------------------------------------- slots of tokens


def _stages(case: Case, blocks: list[nn.Module]) -> list[Stage] | str:
    """Slots of the tokens of every block; or what is wrong with them."""
    seen: list[tuple[Any, ...]] = []
    hooks = [block.register_forward_pre_hook(lambda _, arguments: seen.append(arguments)) for block in blocks]
    try:
        with torch.no_grad():
            case.run()
    finally:
        for hook in hooks:
            hook.remove()
    stages = []
    for block, arguments in zip(blocks, seen, strict=True):
        hidden = arguments[0]
        grid = hidden.shape[1:3] if hidden.dim() == 4 else arguments[1]
        slots = _slots(block, arguments)
        if slots is None:
            return "tokens of a block are not in one slot each"
        stages.append(Stage((int(grid[0]), int(grid[1])), slots))
    for below, above in itertools.pairwise(stages):
        if above.grid not in (below.grid, tuple(-(-side // 2) for side in below.grid)):
            return f"stages of {below.grid} and {above.grid} tokens are not merged two by two"
    return stages


def _slots(block: nn.Module, arguments: tuple[Any, ...]) -> Tensor | None:
    hidden = arguments[0]
    one = torch.randn(hidden.shape[-1], generator=torch.Generator().manual_seed(0), dtype=hidden.dtype)
    equal = one.expand_as(hidden).clone().requires_grad_()
    with OpenAttention() as seen:
        block(equal, *arguments[1:])
    queries = seen.tokens[0].flatten(0, -4).sum((1, 3))  # (window, slot)
    numbers = torch.arange(queries.numel(), dtype=hidden.dtype).reshape(queries.shape)
    (slope,) = torch.autograd.grad(queries.sum(), equal, retain_graph=True)
    (counted,) = torch.autograd.grad((numbers * queries).sum(), equal)
    slope, counted = (one.reshape(len(hidden), -1, hidden.shape[-1]) for one in (slope, counted))
    found = (counted * slope[:1, :1]).sum(-1) / (slope[0, 0] ** 2).sum()
    slots = found.round()
    is_one_each = agree(slope, slope[:1, :1].expand_as(slope)) and len(slots.unique()) == slots.numel()
    return slots.long() if is_one_each and (found - slots).abs().max() < 1e-4 else None


def _between_tokens(by_window: Tensor, stage: Stage) -> Tensor:
    """Values between slots (window, head, slot, slot) as values between tokens (batch, head, token, token)."""
    by_window = by_window.flatten(0, -4)
    window, slot = stage.slots // by_window.shape[-1], stage.slots % by_window.shape[-1]
    together = window[:, :, None] == window[:, None, :]
    values = by_window[window[:, :, None], :, slot[:, :, None], slot[:, None, :]]  # (batch, token, token, head)
    return (values * together[..., None]).permute(0, 3, 1, 2)


def _shares(below: tuple[int, int], above: tuple[int, int]) -> Tensor:
    """Equal shares of the tokens of every 2 x 2 square in the token that they become."""
    shares = torch.zeros(above[0] * above[1], below[0] * below[1], dtype=torch.float64)
    for row, column in itertools.product(range(below[0]), range(below[1])):
        shares[row // 2 * above[1] + column // 2, row * below[1] + column] = 1.0
    return shares / shares.sum(-1, keepdim=True)


def _merging(stages: list[Stage], number: int) -> Tensor:
    """What the tokens of one block are made of in the block below; the identity within a stage."""
    above = stages[number].grid
    below = stages[number - 1].grid if number else above
    return torch.eye(above[0] * above[1], dtype=torch.float64) if above == below else _shares(below, above)


# ----------------------------------------------------------------------------------------------------- proofs


def _rollout(case: Case, **options: Any) -> AttentionRollout:
    return AttentionRollout(case.model, **{**case.options, **options})


def _failed_by_read_out(case: Case, whole: list[tuple[Tensor, Tensor]], stages: list[Stage]) -> list[str]:
    """The head reads all tokens that the score depends on, and maps are products over the tokens of the image."""
    failed = []
    depends = whole[-1][1].abs().amax((1, 3))
    read = (depends > 1e-5 * depends.max()).double()
    # The start of the map, its product of plain attention, and its product of attention weighted by gradients.
    start = rollout = gained = (read / read.sum(-1, keepdim=True))[:, None]
    for number in reversed(range(len(stages))):
        probabilities, gradients = whole[number]
        mixed = probabilities.mean(1) + torch.eye(probabilities.shape[-1], dtype=torch.float64)
        rollout = rollout @ (mixed / mixed.sum(-1, keepdim=True)) @ _merging(stages, number)
        gained = (gained + gained @ (probabilities * gradients).clamp(min=0).mean(1)) @ _merging(stages, number)
        start = start @ _merging(stages, number)
    found = _rollout(case, residual=1.0).layer_rows(case.inputs)[-1]
    if not agree(found, start.squeeze(1)):
        failed.append("the head reads other tokens than the read-out names")
    if not agree(_rollout(case).layer_rows(case.inputs)[-1], rollout.squeeze(1)):
        failed.append("the map of rollout is not the product of the layers")
    found = GradientRollout(case.model, **case.options).layer_rows(case.inputs, target=case.target)[-1]
    if not agree(found, (gained - start).squeeze(1)):
        failed.append("the map is not the product of the layers")
    return failed


def _failed_by_mixing(case: Case, stages: list[Stage]) -> list[str]:
    """Without attention between tokens, a change of one token goes only into the token that it is merged into."""

    def alone(_: int, probabilities: Tensor) -> Tensor:
        return torch.eye(probabilities.shape[-1]).to(probabilities).expand_as(probabilities)

    def changing(token: int) -> Callable[[int, Tensor], Tensor]:
        def edit(number: int, probabilities: Tensor) -> Tensor:
            edited = alone(number, probabilities).clone()
            if number == 0:
                window, slot = divmod(int(stages[0].slots[0, token]), probabilities.shape[-1])
                edited.flatten(0, -4)[window, :, slot, slot] = 3.0
            return edited

        return edit

    before = _tokens(case, alone)
    height, width = stages[0].grid
    for row, column in ((0, 0), (height // 2, width // 2), (height - 1, width - 1)):
        after, place = _tokens(case, changing(row * width + column)), (row, column)
        for number in range(1, len(stages)):
            if stages[number].grid != stages[number - 1].grid:
                place = (place[0] // 2, place[1] // 2)
            difference = (after[number] - before[number]).abs().sum((1, 3)).flatten()
            places = (difference > 1e-9 * difference.max()).nonzero().flatten().tolist()
            expected = int(stages[number].slots[0, place[0] * stages[number].grid[1] + place[1]])
            if places != [expected]:
                return ["tokens are mixed outside of attention, or merged otherwise than two by two"]
    return []


def _tokens(case: Case, edit: Callable[[int, Tensor], Tensor]) -> list[Tensor]:
    with OpenAttention(edit) as seen, torch.no_grad():
        case.run()
    return [tokens.flatten(0, -4) for tokens in seen.tokens]


def _failed_by_reach(case: Case, last: nn.Module, stages: list[Stage]) -> list[str]:
    """A token of the last block has shares of exactly the patches on whose pixels its value depends."""
    image = case.inputs[:1].clone().requires_grad_()
    kept: list[Tensor] = []
    hook = last.register_forward_hook(lambda _, arguments, output: kept.append(output))
    try:
        case.run(image)
    finally:
        hook.remove()
    hidden = kept[0][0] if isinstance(kept[0], tuple) else kept[0]
    hidden = hidden.reshape(-1, hidden.shape[-1])
    # A sum over all features would be that of a norm, which is constant.
    direction = torch.randn(hidden.shape[-1], generator=torch.Generator().manual_seed(1), dtype=hidden.dtype)
    rows, columns = stages[0].grid
    patch = image.shape[-2] // rows, image.shape[-1] // columns
    width = stages[-1].grid[1]
    is_partial = False
    for token in (0, width - 1, len(hidden) // 2, len(hidden) - width, len(hidden) - 1):
        (slope,) = torch.autograd.grad(hidden[token] @ direction, image, retain_graph=True)
        slope = slope[0].abs().sum(0)[: rows * patch[0], : columns * patch[1]]
        depends = slope.reshape(rows, patch[0], columns, patch[1]).sum((1, 3)) > _REACHED
        shares = _rollout(case, readout=token).attribute(image.detach(), return_input_shape=False)
        if not torch.equal(shares[0, 0] > _REACHED, depends):
            return ["a token has shares of other patches than its value depends on"]
        is_partial |= not bool(depends.all())
    return [] if is_partial else ["every token depends on every patch, so that windows cannot be told from none"]


def _failed_by_corners(case: Case, stages: list[Stage]) -> list[str]:
    """Brightening the pixels on which a corner token is drawn changes the patches in that corner, and no other."""
    image = case.inputs[:1]
    start = _rollout(case, residual=1.0)
    (rows, columns), (below_rows, below_columns) = stages[-1].grid, stages[0].grid
    before = _tokens(replace(case, inputs=image), lambda _, probabilities: probabilities)[0]
    for row, column in itertools.product((0, rows - 1), (0, columns - 1)):
        drawn = start.attribute(image, readout=row * columns + column)[0, 0] > 0
        after = _tokens(replace(case, inputs=image + 2.0 * drawn), lambda _, probabilities: probabilities)[0]
        changed = (after - before).abs().sum((1, 3)).flatten()[stages[0].slots[0]] > 0
        expected = torch.zeros(below_rows, below_columns, dtype=torch.bool)
        merged = -(-below_rows // rows), -(-below_columns // columns)
        expected[row * merged[0] : (row + 1) * merged[0], column * merged[1] : (column + 1) * merged[1]] = True
        if not torch.equal(changed.reshape(below_rows, below_columns), expected):
            return ["a corner of the image is not the token that the grid names"]
    return []

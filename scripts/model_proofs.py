"""The proofs that a model must pass before the sweep says that it works.

Everything is checked against `OpenAttention`. What holds between tokens of a whole image is checked in
`windowed_proofs` for models that attend within windows.
"""

import itertools
from typing import Any

import torch
from open_attention import Case, OpenAttention, agree
from torch import Tensor
from windowed_proofs import failed_windowed_proofs

from attrib_plugin import AttentionRollout, GradientRollout, capture_attention
from attrib_plugin.errors import AttributionError, CaptureError
from attrib_plugin.families import find_member

LENGTHS = (7, 4, 6)


def failed_proofs(case: Case) -> list[str]:
    """Names of the proofs that the model fails; a model that is refused raises the refusal.

    Args:
        case: The model and its inputs.

    Returns:
        Empty if everything is proven.
    """
    case.model.requires_grad_(False)
    first = {name: value[:1] for name, value in case.keywords.items()}
    # What is refused is refused here, without a graph.
    AttentionRollout(case.model, **case.options).attribute(case.inputs[:1], forward_kwargs=first)
    options = {"forward_kwargs": case.keywords, "target": case.target}
    relevance = GradientRollout(case.model, **case.options).attribute(case.inputs, **options)
    failed = [] if relevance.isfinite().all() and relevance.any() else ["the map is zero or not finite"]
    try:
        failed += _failed_by_attention(case)
        failed += _failed_by_batch(case, relevance)
        if _is_windowed(case):
            failed += failed_windowed_proofs(case)
        elif case.inputs.dim() == 4:
            failed += _failed_by_orientation(case)
    except AttributionError as error:  # after a map was given, an error is no refusal
        failed.append(f"a proof could not be made: {error}")
    return failed


def _failed_by_attention(case: Case) -> list[str]:
    """Output, probabilities, product and gradients of every call against attention in the open; then the layers."""
    failed = []
    with OpenAttention() as seen:
        output = case.run()
        gradients = torch.autograd.grad(case.score(output), seen.probabilities, allow_unused=True)
    kept = [(p.detach(), g) for p, g in zip(seen.probabilities, gradients, strict=True) if g is not None]
    with capture_attention(case.model) as captured:
        under_capture = case.run()
        calls = captured.calls
        score = case.score(under_capture)
        # A pooling that the head does not read has no gradient, here and in the open.
        calls = [call for call in calls if call.kind != "pool" or _is_used(call, score)]
        found = [(call.probabilities(), call.gradient(of=score)) for call in calls]
    with torch.no_grad():
        plain = case.run()
    if not agree(under_capture.detach(), plain):
        failed.append("the output changes under capture")
    if not all(_product_agrees(call, p) for call, (p, _) in zip(calls, found, strict=True)):
        failed.append("probabilities times values are not the attention's output")
    if len(kept) != len(found):
        return [*failed, f"{len(found)} calls captured, {len(kept)} attentions seen in the open"]
    if not all(agree(ours, theirs) for (ours, _), (theirs, _) in zip(found, kept, strict=True)):
        failed.append("probabilities differ from those of open attention")
    if not all(agree(ours, theirs) for (_, ours), (_, theirs) in zip(found, kept, strict=True)):
        failed.append("gradients differ from autograd through open attention")
    if _is_windowed(case):
        return failed
    layers = [pair for call, pair in zip(calls, found, strict=True) if call.kind in ("self", "causal")]
    return [*failed, *_failed_by_read_out(case, layers), *_failed_by_mixing(case, len(seen.probabilities))]


def _is_windowed(case: Case) -> bool:
    return find_member(case.model).family.windowed


def _is_used(call: Any, score: Tensor) -> bool:
    try:
        call.gradient(of=score)
    except CaptureError:
        return False
    return True


def _product_agrees(call: Any, probabilities: Tensor) -> bool:
    record = call.record
    if record.value is None:
        return agree(record.product(record.weights), record.output.detach())
    value = record.value.reshape(len(probabilities), -1, *record.value.shape[-2:])
    value = value.repeat_interleave(probabilities.shape[1] // value.shape[1], 1)
    return agree(record.output.detach(), probabilities.to(value) @ value)


def _failed_by_read_out(case: Case, layers: list[tuple[Tensor, Tensor]]) -> list[str]:
    """The head reads the tokens whose attention in the last layer the score depends on, and the map starts there."""
    method = GradientRollout(case.model, **case.options)
    start = AttentionRollout(case.model, residual=1.0, **case.options)
    named = {"forward_kwargs": case.keywords, "target": case.target}
    # A target names the token read where the model gives one output a token.
    readout = start.layer_rows(case.inputs, **(named if isinstance(case.target, tuple) else {**named, "target": None}))
    readout = readout[-1]
    depends = layers[-1][1].abs().amax((1, 3))
    # A query that sees itself alone has no gradient that matters, and a row of zeros cannot be told from it.
    read = depends > 1e-5 * depends.max()
    failed = [] if torch.equal(read, readout > 0) else ["the head reads other tokens than the read-out names"]
    relevance = torch.eye(readout.shape[-1]).expand(len(readout), -1, -1)
    for probabilities, gradient in layers:
        if probabilities.shape[-1] != readout.shape[-1]:
            return [*failed, "layers have different numbers of tokens"]
        relevance = relevance + (probabilities * gradient).clamp(min=0).mean(1) @ relevance
    expected = (readout[:, None] @ relevance).squeeze(1) - readout
    if not agree(method.layer_rows(case.inputs, **named)[-1], expected):
        failed.append("the map is not the product of the layers")
    return failed


def _failed_by_mixing(case: Case, n_calls: int) -> list[str]:
    """Without attention between tokens, a change of one token after the first layer stays at that token."""
    if n_calls < 3:
        # What runs beside the first attention does not see its edit, and nothing after the last one is looked at here.
        return ["fewer than three layers cannot show whether tokens mix elsewhere"]

    def alone(number: int, probabilities: Tensor) -> Tensor:
        return torch.eye(probabilities.shape[-1]).to(probabilities).expand_as(probabilities)

    def changed(number: int, probabilities: Tensor) -> Tensor:
        edited = alone(number, probabilities).clone()
        if number == 0:
            edited[..., 2, 2] = 3.0
        return edited

    square = _with(case, OpenAttention(lambda n, p: alone(n, p) if p.shape[-1] == p.shape[-2] else p))
    moved = _with(case, OpenAttention(lambda n, p: changed(n, p) if p.shape[-1] == p.shape[-2] else p))
    after = [n for n in range(1, n_calls) if square.places[n].numel()]
    for number in after:
        before, later = square.places[number], moved.places[number]
        difference = (later - before).nan_to_num().abs().reshape(len(case.inputs), -1, *before.shape[-2:])
        difference = difference.amax((0, 1, 3))
        places = (difference > 1e-4 * difference.max()).nonzero().flatten().tolist()
        if places != [2] or not difference.max() > 0:
            return ["tokens are mixed outside of attention, or layers are not one after another"]
    return []


def _with(case: Case, attention: OpenAttention) -> OpenAttention:
    with attention, torch.no_grad():
        case.run()
    return attention


def _failed_by_batch(case: Case, relevance: Tensor) -> list[str]:
    """Every sample of the batch, without its padding, gives the same map alone."""
    for sample, row in enumerate(relevance):
        length = case.inputs.shape[-1] if case.inputs.dim() == 4 else LENGTHS[sample]
        alone = GradientRollout(case.model, **case.options).attribute(
            case.inputs[sample : sample + 1, ..., :length],
            case.target,
            forward_kwargs={name: value[sample : sample + 1, :length] for name, value in case.keywords.items()},
        )
        if not agree(row[..., :length], alone[0]) or row[..., length:].any():
            return ["a sample of a batch gives another map alone"]
    return []


def _failed_by_orientation(case: Case) -> list[str]:
    """Brightening the pixels on which a corner token is drawn changes that token most of all.

    A stem of many convolutions sees far beyond the patch. There, brightening a quarter of the image must change the
    tokens drawn on it more than twice as much as the others.
    """
    image = case.inputs[:1]
    start = AttentionRollout(case.model, residual=1.0, **case.options)
    rows, columns = start.attribute(image, return_input_shape=False).shape[-2:]
    prefix = start.layer_rows(image)[-1].shape[-1] - rows * columns
    corners = list(itertools.product((0, rows - 1), (0, columns - 1)))
    before = _with(Case(case.model, image), OpenAttention()).tokens[0]

    def drawn(row: int, column: int) -> Tensor:
        return start.attribute(image, readout=prefix + row * columns + column)[0, 0] > 0

    def changes(pixels: Tensor) -> Tensor:
        after = _with(Case(case.model, image + 2.0 * pixels), OpenAttention()).tokens[0]
        difference = (after - before).abs().reshape(-1, *before.shape[-2:]).sum((0, 2))
        return difference[prefix:].reshape(rows, columns)

    places = {tuple(drawn(*corner).nonzero()[0].tolist()) for corner in corners}
    if len(places) < 4:
        return ["corners of the grid are drawn in one place"]
    if all(int(changes(drawn(*corner)).argmax()) == corner[0] * columns + corner[1] for corner in corners):
        return []
    for top, left in itertools.product((True, False), (True, False)):
        quarter = torch.zeros(rows, columns, dtype=torch.bool)
        quarter[slice(rows // 2) if top else slice(-(rows // 2), None), :] = True
        quarter[:, slice(columns // 2, None) if left else slice(0, -(columns // 2))] = False
        pixels = sum(drawn(row, column) for row, column in quarter.nonzero().tolist()) > 0
        change = changes(pixels)
        if change[quarter].mean() < 2 * change[~quarter].mean():
            return ["a corner of the image is not the token that the grid names"]
    return []

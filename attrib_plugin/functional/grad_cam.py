"""Class activation mapping by gradients: a weighted sum of channels, each weighted by its mean gradient over places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from torch import Tensor

from attrib_plugin.functional.choices import check_choice

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

Sign = Literal["positive", "negative", "signed"]
SIGNS: tuple[Sign, ...] = get_args(Sign)


def grad_cam(
    values: Float[Tensor, "batch token channel"],
    gradients: Float[Tensor, "batch token channel"],
    *,
    counted: Bool[Tensor, "batch token"] | None = None,
    sign: Sign = "positive",
) -> Float[Tensor, "batch token"]:
    """GradCAM over tokens: ``(Σ_c w_c a_c)⁺`` with ``w_c`` the mean of the gradient of channel c over the tokens.

    Args:
        values: Activations of a layer.
        gradients: Gradient of the score with respect to them.
        counted: True at the tokens over which the weights are means; ``None`` counts all.
        sign: ``"positive"`` keeps what is above zero (the paper's), ``"negative"`` what is below, as a positive
            number, ``"signed"`` both.

    Returns:
        One value a token, counted or not, in units of the score.

    Raises:
        ValueError: If ``sign`` is unknown.

    Reference:
        Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2.
    """
    weights = masked_mean(gradients.transpose(-1, -2), None if counted is None else counted[:, None])  # (B, C)
    return rectified((values @ weights[..., None]).squeeze(-1), sign)


def attention_grad_cam(
    probs: Float[Tensor, "batch head row token"],
    weights: Float[Tensor, "batch head #row 1"],
    *,
    sign: Sign = "positive",
) -> Float[Tensor, "batch row token"]:
    """GradCAM whose channels are the heads of a layer: ``(mean_h w_h A_h)⁺``.

    Args:
        probs: Attention probabilities.
        weights: Weight of every head, for each row or for all of them: a mean of the gradient of the score with
            respect to the probabilities.
        sign: As in :func:`grad_cam`.

    Returns:
        One value a row and token, in units of the score.

    Raises:
        ValueError: If ``sign`` is unknown.

    Reference:
        Selvaraju et al. 2017, arXiv:1610.02391; on attention: Chefer, Gur and Wolf 2021a, arXiv:2012.09838.
    """
    return rectified((weights * probs).mean(-3), sign)


def masked_mean(values: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean over the last axis.

    Args:
        values: Any values.
        counted: True where values count, broadcast against them; ``None`` counts all.

    Returns:
        The mean, without the last axis; zero where nothing counts.
    """
    if counted is None:
        return values.mean(-1)
    number = counted.sum(-1).clamp(min=1)
    return values.masked_fill(~counted, 0).sum(-1) / number


def rectified(values: Tensor, sign: Sign) -> Tensor:
    """The part of values that has a sign.

    Args:
        values: Any values.
        sign: ``"positive"``, ``"negative"`` (as positive numbers) or ``"signed"`` (as they are).

    Returns:
        Values of the same shape.

    Raises:
        ValueError: If ``sign`` is unknown.
    """
    check_choice("sign", sign, SIGNS)
    if sign == "signed":
        return values
    return (values if sign == "positive" else -values).clamp(min=0)


def min_max(values: Tensor, axes: tuple[int, ...] = (-1,), *, counted: Tensor | None = None) -> Tensor:
    """Stretch values to reach from 0 to 1.

    Args:
        values: Any values.
        axes: Axes over which smallest and largest value are taken.
        counted: True where values count, of the shape of the values or broadcast to it; the others become zero.

    Returns:
        Values from 0 to 1; all zero where they are all alike, for which the formula gives 0/0.
    """
    highest, lowest = values, values
    if counted is not None:
        highest, lowest = values.masked_fill(~counted, -float("inf")), values.masked_fill(~counted, float("inf"))
    low, high = lowest.amin(axes, keepdim=True), highest.amax(axes, keepdim=True)
    flat = (high == low).expand_as(values)
    stretched = ((values - low) / (high - low)).masked_fill(flat, 0)
    return stretched if counted is None else stretched.masked_fill(~counted, 0)

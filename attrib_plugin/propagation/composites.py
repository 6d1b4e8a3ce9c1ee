"""The composites of the papers, and of the implementations that are reproduced."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrib_plugin.functional.lrp import MaskSum, Stabilizer
from attrib_plugin.propagation.composite import Composite
from attrib_plugin.propagation.rules import (
    Block,
    Epsilon,
    Fanout,
    FixedScaleNorm,
    Gamma,
    Identity,
    Magnitude,
    PixelBox,
    ProductAttention,
    Routed,
    SharedAttention,
    Summands,
    ZPlus,
)
from attrib_plugin.propagation.step import Rule

_CHEFER = "Chefer, Gur and Wolf 2021a, arXiv:2012.09838, equations 2 to 10"
_ATTNLRP = "Achtibat et al. 2024, arXiv:2402.05602"
_UNSIGNED = Stabilizer(epsilon=1e-9, signed=False)


def chefer2021() -> Composite:
    """The rules of "Transformer Interpretability Beyond Attention Visualization", as the paper has them.

    Linear layers by positive contributions, products of attention by halves, residual sums rescaled to conserve the
    relevance of each sample; norms, activations and softmax pass it on. The stabiliser of 1e-9, the authors' size,
    works away from zero, so that shares of mere rounding (padding, for one) stay small.

    Returns:
        The composite.
    """
    return Composite("chefer2021", _positive_rules(Stabilizer(epsilon=1e-9)), reference=_CHEFER)


def chefer2021_vit() -> Composite:
    """The rules as the authors' ViT code runs them: 1e-9 is added to every denominator whatever its sign.

    Returns:
        The composite.
    """
    return Composite(
        "chefer2021_vit",
        _positive_rules(_UNSIGNED) | {"pick": Routed(_UNSIGNED)},
        fanout=Fanout(_UNSIGNED),
        reference=_CHEFER,
    )


def chefer2021_bert() -> Composite:
    """The rules as the authors' BERT code runs them: adding the mask to the scores is a residual sum too.

    Returns:
        The composite.
    """
    return Composite(
        "chefer2021_bert",
        _positive_rules(_UNSIGNED, mask_sum="conserving") | {"pick": Routed(_UNSIGNED)},
        fanout=Fanout(_UNSIGNED, among_linear=True),
        reference=_CHEFER,
    )


def chefer2021_baseline_vit() -> Composite:
    """The rules of the authors' LRP baselines on ViT, in which linear layers may double relevance.

    Returns:
        The composite.
    """
    return _baseline(chefer2021_vit())


def chefer2021_baseline_bert() -> Composite:
    """The rules of the authors' LRP baselines on BERT, in which linear layers may double relevance.

    Returns:
        The composite.
    """
    composite = _baseline(chefer2021_bert())
    return Composite(
        composite.name,
        {**composite.rules, "attention": ProductAttention(_UNSIGNED, mask_sum="proportional")},
        fanout=composite.fanout,
        reference=composite.reference,
    )


def attnlrp(*, linear: Rule | None = None, convolution: Rule | None = None) -> Composite:
    """AttnLRP: input times gradient, with half of each product and norms of fixed scale.

    Args:
        linear: Rule of linear layers outside attention; ``None`` is the ε-rule.
        convolution: Rule of convolutions; ``None`` is the ε-rule.

    Returns:
        The composite. Relevance starts at the value of the score.
    """
    rules = _contribution_rules(SharedAttention(), Epsilon(share=0.5), Epsilon())
    return _with_linear(Composite("attnlrp", rules, start="value", reference=_ATTNLRP), linear, convolution)


def cplrp(*, linear: Rule | None = None, convolution: Rule | None = None) -> Composite:
    """CP-LRP: as AttnLRP, with attention probabilities held constant.

    Args:
        linear: Rule of linear layers outside attention; ``None`` is the ε-rule.
        convolution: Rule of convolutions; ``None`` is the ε-rule.

    Returns:
        The composite.
    """
    rules = _contribution_rules(SharedAttention(constant_probabilities=True), Epsilon(), Block())
    composite = Composite("cplrp", rules, start="value", reference="Ali et al. 2022, arXiv:2202.07304")
    return _with_linear(composite, linear, convolution)


def attnlrp_gamma(*, linear: float = 0.05, convolution: float = 0.25) -> Composite:
    """AttnLRP with the gamma rule, its composite for vision transformers.

    Args:
        linear: Gamma of linear layers outside attention; projections of attention keep the ε-rule.
        convolution: Gamma of convolutions.

    Returns:
        The composite.
    """
    composite = attnlrp(linear=Gamma(linear), convolution=Gamma(convolution))
    return Composite("attnlrp_gamma", composite.rules, start="value", reference=_ATTNLRP)


def reslrp(*, gamma: float = 1.0) -> Composite:
    """ResLRP: AttnLRP with a bounded rule for residual sums.

    Args:
        gamma: Bound of the rule; shares lie between -1/gamma and 1 + 1/gamma.

    Returns:
        The composite.
    """
    rules: dict[str, Rule] = {**attnlrp().rules, "sum": Summands("gamma", gamma=gamma)}
    return Composite("reslrp", rules, start="value", reference="ResLRP 2026")


def _positive_rules(divide: Stabilizer, *, mask_sum: MaskSum = "ignored") -> dict[str, Rule]:
    return {
        "linear": ZPlus(divide),
        "convolution": ZPlus(divide),
        "pixel convolution": PixelBox(divide),
        "attention": ProductAttention(divide, mask_sum=mask_sum),
        "product": Epsilon(share=0.5, divide=divide),
        "sum": Summands("conserving", divide=divide),
        "bias in attention": Identity() if mask_sum == "ignored" else Summands(mask_sum, divide=divide),
        "scaling": Identity(),
        "gate": Identity(),
        "activation": Identity(),
        "norm": Identity(),
        "batch norm": Identity(),
        "group norm": Identity(),
        "softmax": Identity(),
        "mean": Magnitude(),
        "total": Magnitude(),
    }


def _contribution_rules(attention: Rule, product: Rule, softmax: Rule) -> dict[str, Rule]:
    return {
        "linear": Epsilon(),
        "convolution": Epsilon(),
        "attention": attention,
        "product": product,
        "sum": Summands("proportional"),
        "bias in attention": Summands("proportional"),
        "scaling": Identity(),
        "gate": Identity(),
        # In terms of gradients the rule is a slope of f(x)/(x + 1e-10), as in the authors' code.
        "activation": Identity(Stabilizer(epsilon=1e-10, signed=False)),
        "norm": FixedScaleNorm(),
        "batch norm": Epsilon(),
        "softmax": softmax,
        "mean": Epsilon(),
        "total": Epsilon(),
    }


def _baseline(composite: Composite) -> Composite:
    rules: dict[str, Rule] = {
        **composite.rules,
        "linear": ZPlus(_UNSIGNED, joint=False),
        "sum": Summands(divide=_UNSIGNED),
    }
    return Composite(f"{composite.name}_baseline", rules, fanout=composite.fanout, reference=_CHEFER)


def _with_linear(composite: Composite, linear: Rule | None, convolution: Rule | None) -> Composite:
    rules = dict(composite.rules)
    if linear is not None:
        rules["linear in attention"], rules["linear"] = rules["linear"], linear
    if convolution is not None:
        rules["convolution"] = convolution
    return Composite(composite.name, rules, composite.start, reference=composite.reference)


COMPOSITES: Mapping[str, Callable[[], Composite]] = {
    "attnlrp": attnlrp,
    "attnlrp_gamma": attnlrp_gamma,
    "chefer2021": chefer2021,
    "chefer2021_baseline_bert": chefer2021_baseline_bert,
    "chefer2021_baseline_vit": chefer2021_baseline_vit,
    "chefer2021_bert": chefer2021_bert,
    "chefer2021_vit": chefer2021_vit,
    "cplrp": cplrp,
    "reslrp": reslrp,
}
"""Every composite by name."""

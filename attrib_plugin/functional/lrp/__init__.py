"""Layer-wise relevance propagation: one formula a rule, for any tensors."""

from attrib_plugin.functional.lrp.attention import MaskSum, halves, probability_relevance, product_rules_attention
from attrib_plugin.functional.lrp.division import EXACT, Stabilizer, per_sample_sum
from attrib_plugin.functional.lrp.linear import (
    LinearMap,
    alpha_beta_rule,
    box_rule,
    epsilon_rule,
    gamma_rule,
    split_z_plus_rule,
    z_plus_rule,
)
from attrib_plugin.functional.lrp.sums import (
    conserving_sum_rule,
    magnitude_mean_rule,
    residual_gamma_rule,
    sum_rule,
    unbroadcast,
)

__all__ = [
    "EXACT",
    "LinearMap",
    "MaskSum",
    "Stabilizer",
    "alpha_beta_rule",
    "box_rule",
    "conserving_sum_rule",
    "epsilon_rule",
    "gamma_rule",
    "halves",
    "magnitude_mean_rule",
    "per_sample_sum",
    "probability_relevance",
    "product_rules_attention",
    "residual_gamma_rule",
    "split_z_plus_rule",
    "sum_rule",
    "unbroadcast",
    "z_plus_rule",
]

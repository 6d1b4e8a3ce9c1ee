"""Relevance propagation: rules for operations, composites of rules, and the graph that they ride on."""

from attrib_plugin.propagation.composite import Composite
from attrib_plugin.propagation.composites import (
    COMPOSITES,
    attnlrp,
    attnlrp_gamma,
    chefer2021,
    chefer2021_baseline_bert,
    chefer2021_baseline_vit,
    chefer2021_bert,
    chefer2021_vit,
    cplrp,
    reslrp,
)
from attrib_plugin.propagation.graph import BlockTokens, RelevanceGraph
from attrib_plugin.propagation.operation import Flow
from attrib_plugin.propagation.rules import (
    AlphaBeta,
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
from attrib_plugin.propagation.step import Rule, Step

__all__ = [
    "COMPOSITES",
    "AlphaBeta",
    "Block",
    "BlockTokens",
    "Composite",
    "Epsilon",
    "Fanout",
    "FixedScaleNorm",
    "Flow",
    "Gamma",
    "Identity",
    "Magnitude",
    "PixelBox",
    "ProductAttention",
    "RelevanceGraph",
    "Routed",
    "Rule",
    "SharedAttention",
    "Step",
    "Summands",
    "ZPlus",
    "attnlrp",
    "attnlrp_gamma",
    "chefer2021",
    "chefer2021_baseline_bert",
    "chefer2021_baseline_vit",
    "chefer2021_bert",
    "chefer2021_vit",
    "cplrp",
    "reslrp",
]

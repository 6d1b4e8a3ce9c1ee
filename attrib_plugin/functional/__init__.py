"""Formulas: pure functions of tensors. They know no model, no library and no picture."""

from attrib_plugin.functional.attention import attention_gradient, attention_probabilities
from attrib_plugin.functional.flow import (
    FlowGraph,
    attention_flow,
    attention_flow_by_layer,
    flow_graph,
    generalized_attention_flow,
)
from attrib_plugin.functional.head_fusion import HeadFusion, fuse_heads
from attrib_plugin.functional.rollout import (
    attention_rollout,
    attention_rollout_rows,
    discard_lowest,
    mix_residual,
)
from attrib_plugin.functional.weighted_rollout import (
    gradient_rollout,
    gradient_rollout_rows,
    gradient_weighted_attention,
    row_normalized_gain,
)

__all__ = [
    "FlowGraph",
    "HeadFusion",
    "attention_flow",
    "attention_flow_by_layer",
    "attention_gradient",
    "attention_probabilities",
    "attention_rollout",
    "attention_rollout_rows",
    "discard_lowest",
    "flow_graph",
    "fuse_heads",
    "generalized_attention_flow",
    "gradient_rollout",
    "gradient_rollout_rows",
    "gradient_weighted_attention",
    "mix_residual",
    "row_normalized_gain",
]

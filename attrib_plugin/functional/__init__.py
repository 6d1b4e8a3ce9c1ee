"""Formulas: pure functions of tensors. They know no model, no library and no picture."""

from attrib_plugin.functional.attention import attention_gradient, attention_probabilities
from attrib_plugin.functional.bimodal import (
    co_attention_update,
    cross_attention_relevance,
    normalize_gain,
    self_attention_update,
)
from attrib_plugin.functional.finished_rows import divide_rows, overwrite_special
from attrib_plugin.functional.flow import (
    FlowGraph,
    attention_flow,
    attention_flow_by_layer,
    flow_graph,
    generalized_attention_flow,
)
from attrib_plugin.functional.grad_cam import attention_grad_cam, grad_cam
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
    score_gradients,
)

__all__ = [
    "FlowGraph",
    "HeadFusion",
    "attention_flow",
    "attention_flow_by_layer",
    "attention_grad_cam",
    "attention_gradient",
    "attention_probabilities",
    "attention_rollout",
    "attention_rollout_rows",
    "co_attention_update",
    "cross_attention_relevance",
    "discard_lowest",
    "divide_rows",
    "flow_graph",
    "fuse_heads",
    "generalized_attention_flow",
    "grad_cam",
    "gradient_rollout",
    "gradient_rollout_rows",
    "gradient_weighted_attention",
    "mix_residual",
    "normalize_gain",
    "overwrite_special",
    "row_normalized_gain",
    "score_gradients",
    "self_attention_update",
]

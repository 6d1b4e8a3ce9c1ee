"""Attention flow: exact maximum flows through the layers, every value certified by a cut of equal capacity.

The one part of the formulas that works in NumPy, on the CPU; SciPy, numba and networkx are loaded when they are used.
"""

from attrib_plugin.functional.flow.engines import EngineName
from attrib_plugin.functional.flow.graph import FlowGraph, flow_graph
from attrib_plugin.functional.flow.super_source import generalized_attention_flow
from attrib_plugin.functional.flow.tokens import attention_flow, attention_flow_by_layer

__all__ = [
    "EngineName",
    "FlowGraph",
    "attention_flow",
    "attention_flow_by_layer",
    "flow_graph",
    "generalized_attention_flow",
]

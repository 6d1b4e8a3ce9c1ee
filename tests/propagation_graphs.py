"""Tiny modules run under a relevance graph: what tests of single operations share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attrib_plugin.capture import CaptureSession
from attrib_plugin.propagation import Composite, RelevanceGraph

DIM = 6


class Calls(nn.Module):
    """A module whose forward is a function; it gets the module's parts by name."""

    def __init__(self, function: Callable[..., Tensor], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self, inputs)


@dataclass
class Run:
    """A forward pass under a graph."""

    graph: RelevanceGraph
    inputs: Tensor
    output: Tensor

    def relevance(self, at_output: Tensor) -> Tensor:
        with self.graph.propagating():
            return torch.autograd.grad(self.output, self.inputs, at_output, retain_graph=True)[0]

    def gradient(self, at_output: Tensor) -> Tensor:
        return torch.autograd.grad(self.output, self.inputs, at_output, retain_graph=True)[0]


def run(model: nn.Module, inputs: Tensor, composite: Composite, *, ledger: bool = False) -> Run:
    """Run a model under a graph that starts at its input."""
    graph = RelevanceGraph(composite, len(inputs), ledger=ledger)
    leaf = inputs.detach().clone().requires_grad_()
    with CaptureSession(model.eval(), interpreter=graph):
        output = model(leaf)
    return Run(graph, leaf, output)


class OwnRMSNorm(nn.Module):
    """A norm written out, as in Llama."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(DIM))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class OwnLayerNorm(nn.Module):
    """A norm written out, as in DeBERTa."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(DIM)), nn.Parameter(torch.randn(DIM))
        self.variance_epsilon = 1e-6

    def forward(self, x):
        spread = x - x.mean(-1, keepdim=True)
        return self.weight * spread / torch.sqrt(spread.pow(2).mean(-1, keepdim=True) + 1e-6) + self.bias

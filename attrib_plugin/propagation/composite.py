"""Composites: which rule is laid over which operation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from attrib_plugin.errors import UnsupportedOperationError
from attrib_plugin.propagation.rules import Fanout
from attrib_plugin.propagation.step import Rule


@dataclass(frozen=True)
class Composite:
    """A way to propagate relevance: one rule for each kind of operation.

    Attributes:
        name: Short name, for messages and reports.
        rules: Rule of each kind. A key ``"linear in attention"`` holds for linear layers inside modules whose name
            says so; plain ``"linear"`` for the others. A ``"bias"`` is a sum with a constant, such as a mask or a
            position; outside of attention it has the rule of sums. A ``"pixel convolution"`` reads the pixels
            themselves, as patch embeddings do; without a rule of its own it has that of convolutions.
        start: Relevance of the explained score itself: ``"one"``, or the score's ``"value"``.
        fanout: What happens where a tensor is used several times; ``None`` adds the uses up.
        reference: Paper and equations.
    """

    name: str
    rules: Mapping[str, Rule]
    start: Literal["one", "value"] = "one"
    fanout: Fanout | None = None
    reference: str = field(default="", compare=False)

    @property
    def is_delicate(self) -> bool:
        """Whether rounding can change maps much: rescaled sums flip where the sum of a branch crosses zero."""
        return any(getattr(rule, "how", None) == "conserving" for rule in self.rules.values())

    def rule(self, kind: str, module: str) -> Rule:
        """The rule of an operation.

        Args:
            kind: Its kind.
            module: Dotted name of the module that runs it.

        Returns:
            The rule.

        Raises:
            UnsupportedOperationError: If there is none.
        """
        if _in_attention(module) and (special := self.rules.get(f"{kind} in attention")):
            return special
        rule = self.rules.get(kind) or self.rules.get(_BROADER.get(kind, kind))
        if rule is None:
            raise UnsupportedOperationError(
                f"The composite {self.name!r} has no rule for the {kind} operation in {module or 'the model'!r}. "
                f"Its rules: {', '.join(sorted(self.rules))}. Give one: composite.with_rules({kind}=rule)."
            )
        return rule

    def with_rules(self, **rules: Rule) -> Composite:
        """The same composite with other rules.

        Args:
            **rules: Rule by kind; underscores stand for spaces (``linear_in_attention``).

        Returns:
            A new composite.
        """
        named = {kind.replace("_", " "): rule for kind, rule in rules.items()}
        return replace(self, name=f"{self.name}*", rules={**self.rules, **named})


_BROADER = {"bias": "sum", "pixel convolution": "convolution"}
"""Kinds that are part of another, whose rule they have without one of their own."""


def _in_attention(module: str) -> bool:
    return any("attn" in part or "attention" in part for part in module.lower().split("."))

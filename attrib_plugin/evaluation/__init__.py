"""How good is a map: perturbations and scores for any explanation, made by this package or not."""

from attrib_plugin.evaluation.token_perturbation import TokenMask, TokenPerturbation, TokenSwap

__all__ = ["TokenMask", "TokenPerturbation", "TokenSwap"]

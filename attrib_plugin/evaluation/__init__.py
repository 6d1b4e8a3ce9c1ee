"""How good is a map: perturbations and scores for any explanation, made by this package or not."""

from attrib_plugin.evaluation.captum_metrics import infidelity, max_sensitivity
from attrib_plugin.evaluation.curve_scores import (
    area_over_perturbation_curve,
    black,
    deletion,
    insertion,
    pixel_accuracy_curve,
    symmetric_relevance_gain,
)
from attrib_plugin.evaluation.intervals import Interval, mean_interval
from attrib_plugin.evaluation.localisation import (
    SegmentationResult,
    SegmentationScore,
    cell_shares,
    mass_inside,
    pointing_game,
    share_in_cell,
)
from attrib_plugin.evaluation.perturbation import PerturbationCurve, perturbation_curve
from attrib_plugin.evaluation.quantus_metrics import quantus_scores
from attrib_plugin.evaluation.ranking import agreement, rank_correlation
from attrib_plugin.evaluation.rationales import (
    comprehensiveness,
    log_odds,
    sufficiency,
    token_auprc,
    token_f1,
    token_iou,
)
from attrib_plugin.evaluation.sanity import (
    class_sensitivity,
    input_invariance,
    parameter_randomisation,
    randomised_parameters,
)
from attrib_plugin.evaluation.scoring import score_of_map
from attrib_plugin.evaluation.token_perturbation import TokenMask, TokenPerturbation, TokenSwap
from attrib_plugin.evaluation.units import patch_units, token_units

__all__ = [
    "Interval",
    "PerturbationCurve",
    "SegmentationResult",
    "SegmentationScore",
    "TokenMask",
    "TokenPerturbation",
    "TokenSwap",
    "agreement",
    "area_over_perturbation_curve",
    "black",
    "cell_shares",
    "class_sensitivity",
    "comprehensiveness",
    "deletion",
    "infidelity",
    "input_invariance",
    "insertion",
    "log_odds",
    "mass_inside",
    "max_sensitivity",
    "mean_interval",
    "parameter_randomisation",
    "patch_units",
    "perturbation_curve",
    "pixel_accuracy_curve",
    "pointing_game",
    "quantus_scores",
    "randomised_parameters",
    "rank_correlation",
    "score_of_map",
    "share_in_cell",
    "sufficiency",
    "symmetric_relevance_gain",
    "token_auprc",
    "token_f1",
    "token_iou",
    "token_units",
]

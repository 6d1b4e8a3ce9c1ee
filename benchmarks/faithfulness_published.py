"""Published figures beside those of ``faithfulness.json``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from faithfulness_table import Summary, mean, table

from attrib_plugin.evaluation import rank_correlation


@dataclass(frozen=True)
class Ours:
    """A column of ours.

    Attributes:
        task: Name of the task.
        metric: Name of the score.
        column: The published column that it is compared with.
        scale: What our score is multiplied with.
    """

    task: str
    metric: str
    column: int = 0
    scale: float = 1.0


@dataclass(frozen=True)
class Published:
    """A published table, by our names of the methods.

    Attributes:
        title: What is measured, and where it stands.
        columns: Its columns.
        figures: One number a column.
        ours: What is nearest to it here.
    """

    title: str
    columns: tuple[str, ...]
    figures: dict[str, tuple[float, ...]]
    ours: tuple[Ours, ...]


TABLES = (
    Published(
        "SRG, ResLRP 2026",
        ("ViT-B/16", "DINOv2-L"),
        {
            "AttentionAwareRelevance, residual": (3.20, 4.72),
            "TransformerAttribution": (2.74, 4.43),
            "GradientRollout": (2.74, 4.44),
            "AttentionAwareRelevance": (1.51, 1.65),
            "Captum IntegratedGradients": (1.23, 1.24),
            "Captum InputXGradient": (0.45, 0.45),
            "random": (-0.11, -0.10),
        },
        (Ours("photo", "SRG", 1), Ours("multi-digits", "SRG"), Ours("digits", "SRG"), Ours("sentiment", "SRG")),
    ),
    Published(
        "Area between the curves, AttnLRP 2024",
        ("ViT-B/16",),
        {
            "AttentionAwareRelevance, gamma": (6.19,),
            "AttentionAwareRelevance": (2.79,),
            "GradientRollout": (2.60,),
        },
        (Ours("photo", "SRG"), Ours("multi-digits", "SRG"), Ours("digits", "SRG")),
    ),
    Published(
        "MIF accuracy (high is good), mean of seven families, LibraGrad 2025",
        ("LibraGrad",),
        {
            "GradientRollout": (48.7,),
            "AttentionAwareRelevance": (44.9,),
            "RawAttention": (42.6,),
            "TokenGradCam": (39.8,),
            "Captum IntegratedGradients": (32.1,),
            "AttentionRollout": (31.3,),
            "Captum InputXGradient": (30.7,),
            "random": (25.4,),
        },
        (Ours("photo", "SRG"), Ours("multi-digits", "SRG"), Ours("digits", "SRG"), Ours("sentiment", "SRG")),
    ),
    Published(
        "Pixel test, Chefer 2021",
        ("negative ↑", "positive ↓"),
        {
            "TransformerAttribution": (54.16, 17.03),
            "AttentionRollout": (53.10, 20.05),
            "RawAttention": (45.55, 23.99),
            "AttentionGradCam": (41.52, 34.06),
        },
        (
            Ours("digits", "pixel test, negative", 0, 100.0),
            Ours("digits", "pixel test, positive", 1, 100.0),
        ),
    ),
    Published(
        "Segmentation, Chefer 2021",
        ("pixel accuracy", "mAP", "mIoU"),
        {
            "TransformerAttribution": (79.70, 86.03, 61.95),
            "AttentionRollout": (73.54, 84.76, 55.42),
            "RawAttention": (67.84, 80.24, 46.37),
            "AttentionGradCam": (64.44, 71.60, 40.82),
        },
        (
            Ours("photo mosaics", "segmentation pixel_accuracy", 0, 100.0),
            Ours("photo mosaics", "segmentation mean_average_precision", 1, 100.0),
            Ours("photo mosaics", "segmentation mean_iou", 2, 100.0),
            Ours("multi-digits", "segmentation mean_iou", 2, 100.0),
        ),
    ),
    Published(
        "Mass inside the object's mask, ResLRP 2026",
        ("ViT-B/16", "DINOv2-L"),
        {
            "AttentionAwareRelevance, residual": (0.62, 0.59),
            "TransformerAttribution": (0.62, 0.58),
            "GradientRollout": (0.50, 0.51),
            "AttentionAwareRelevance": (0.32, 0.47),
        },
        (
            Ours("photo pairs", "share in cell", 1),
            Ours("photo mosaics", "share in cell", 1),
            Ours("multi-digits", "share in cell"),
        ),
    ),
)


def published(summary: Summary) -> str:
    """All tables, with the agreement of the orders in the last line."""
    return "\n\n".join(_one(paper, summary) for paper in TABLES)


def _one(paper: Published, summary: Summary) -> str:
    ours = [one for one in paper.ours if one.task in summary["tasks"]]
    rows = [[name, *(f"{figure:g}" for figure in figures)] for name, figures in paper.figures.items()]
    last = ["*agreement of the orders*", *([""] * len(paper.columns))]
    for one in ours:
        found = [mean(summary["tasks"][one.task]["methods"].get(name), one.metric) for name in paper.figures]
        for row, number in zip(rows, found, strict=True):
            row.append("-" if number is None else f"{number * one.scale:.{1 if one.scale > 1 else 2}f}")
        last.append(_agreement([figures[one.column] for figures in paper.figures.values()], found))
    header = (paper.title, *paper.columns, *(f"ours: {one.task}, {one.metric}" for one in ours))
    return table(header, [*rows, last])


def _agreement(theirs: list[float], ours: list[float | None]) -> str:
    """Spearman's rank correlation of two columns, and over how many rows."""
    pairs = [(one, other) for one, other in zip(theirs, ours, strict=True) if other is not None]
    if len(pairs) < 3:
        return "-"
    first, second = torch.tensor(pairs, dtype=torch.float64).T
    return f"*{float(rank_correlation(first[None], second[None])):+.2f} ({len(pairs)})*"

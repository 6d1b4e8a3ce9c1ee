"""Which models work, which are refused and why: every architecture is built, run and put to the proof.

Run: nice python scripts/sweep_models.py [--filter 'vit_*'] [--output sweep-results.jsonl]   (goes on where it stopped)
     python scripts/models_page.py sweep-results.jsonl                                       (writes docs/reference)

With `--new` it looks only at models that docs/reference/models.json does not hold yet; with `--verdict unverified`
again at those of that verdict.

Looked at are all architectures of timm and all types of transformers with a classifier of sequences or images, with
random weights (see `model_builders`). The verdicts:

works         everything in `model_proofs` holds, for every attention implementation that the model has
refused       one of the package's errors, which says why
unverified    some proof failed, it could not be built or run, or time or memory ran out
no attention  no attention call is made

Each model runs in a worker process with a limit of time and memory, one after another.
"""

import argparse
import fnmatch
import gc
import json
import multiprocessing
import os
import re
import resource
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

LIBRARIES = ("timm", "transformers")
VERDICTS = ("works", "refused", "unverified", "no attention")
SECONDS = 300
"""Most time of computing for one model."""
BYTES = 6 * 2**30
RESULTS = Path("sweep-results.jsonl")
SUMMARY = Path(__file__).parents[1] / "docs" / "reference" / "models.json"
_MODELS_A_WORKER = 100
_PATIENCE = 20


# ------------------------------------------------------------------------------------------------- one model


def examine(library: str, name: str) -> dict[str, Any]:
    """Build one architecture and put it to the proof.

    Args:
        library: ``"timm"`` or ``"transformers"``.
        name: As `model_builders.names` gives it.

    Returns:
        The verdict with its reason, and how the model was made.
    """
    import model_builders as builders

    record: dict[str, Any] = {"library": library, "name": name, "kind": _kind(library, name), "family": "unknown"}
    record |= {"modality": "text" if "Sequence" in name else "image", "attention": {}}
    seen = builders.seen_in_outline(name) if library == "timm" else None
    if seen is not None:
        verdict, reason = seen
        return {**record, "family": builders.family_of_outline(name), "verdict": verdict, "reason": _short(reason)}
    reasons = {}
    for implementation in builders.implementations(library, name):
        verdict, reason = _examine_one(record, library, name, implementation)
        has_one = record.pop("has one implementation", False)
        said = "eager" if has_one else implementation
        record["attention"][said] = verdict
        reasons[said] = reason
        if has_one or verdict in ("refused", "no attention"):
            break
    worst = max(record["attention"], key=lambda one: VERDICTS.index(record["attention"][one]) % 3)
    return {**record, "verdict": record["attention"][worst], "reason": reasons[worst]}


def _examine_one(record: dict[str, Any], library: str, name: str, implementation: str) -> tuple[str, str]:
    import model_builders as builders
    import model_proofs as proofs

    from attrib_plugin.errors import AttributionError, NothingCapturedError
    from attrib_plugin.families import find_member

    try:
        for how, case in builders.cases(library, name, implementation):
            record["built"] = how
            record["family"] = find_member(case.model).family.name
            modules = list(case.model.modules())
            record["has one implementation"] = library == "timm" and not any(hasattr(m, "fused_attn") for m in modules)
            failed = proofs.failed_proofs(case)
            return ("unverified", "; ".join(failed)) if failed else ("works", "")
    except NothingCapturedError as error:
        return ("refused", _short(str(error))) if "over another axis" in str(error) else ("no attention", "")
    except AttributionError as error:
        # Weights drawn at random may be too large for a deep model; its own would not be.
        is_overflow = "output has NaN" in str(error)
        return ("unverified", "the random weights give NaN") if is_overflow else ("refused", _short(str(error)))
    except Exception as error:
        return "unverified", _failure(error)
    raise AssertionError("cases() yields one case or raises")


def _failure(error: Exception) -> str:
    if type(error).__name__ == "CannotBuildError":
        return f"not built: {error}"
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return f"needs more than {BYTES / 2**30:.0f} GiB"
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(place.filename).name}: {error}"


def _kind(library: str, name: str) -> str:
    if library == "transformers":
        return name.partition(" ")[0]
    from timm.models._registry import _model_to_module

    return _model_to_module[name]


def _short(text: str) -> str:
    """What an error says first, without the names and shapes of one model."""
    # Where no attention call was seen, the reason is what was seen instead.
    text = (text[text.index("Seen were") :] if "Seen were" in text else text).split(". ")[0]
    text = re.sub(r"'[\w.]*\.[\w.]*'", "'…'", text)
    return re.sub(r"\(\d[\d, ]*\)", "(…)", text)


# ---------------------------------------------------------------------------------------------------- workers


def _work(pipe: Connection) -> None:
    import torch

    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
    while (job := pipe.recv()) is not None:
        # Time of computing, not of the clock: the sweep may run beside other work.
        limit = int(time.process_time()) + SECONDS + 1
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        pipe.send(examine(*job))
        gc.collect()


class Worker:
    """A process that examines one model after another, and is ended when one takes too long."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other,), daemon=True)
        self._process.start()
        other.close()
        self.examined = 0

    def examine(self, library: str, name: str) -> dict[str, Any]:
        """One record, whatever happens to the process."""
        self.examined += 1
        started = time.monotonic()
        self._pipe.send((library, name))
        if not self._pipe.poll(_PATIENCE * SECONDS):
            return self._failed(library, name, f"the process hung for {_PATIENCE * SECONDS} seconds")
        try:
            return {**self._pipe.recv(), "seconds": round(time.monotonic() - started, 1)}
        except (EOFError, ConnectionError):
            self._process.join()
            is_late = self._process.exitcode == -signal.SIGXCPU
            died = f"the process died: over {BYTES / 2**30:.0f} GiB or a crash"
            return self._failed(library, name, f"no verdict within {SECONDS} seconds" if is_late else died)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()

    def _failed(self, library: str, name: str, reason: str) -> dict[str, Any]:
        self.examined = _MODELS_A_WORKER
        modality = "text" if "Sequence" in name else "image"
        record = {"library": library, "name": name, "kind": _kind(library, name), "family": "unknown"}
        record |= {"modality": modality, "attention": {}, "verdict": "unverified", "reason": reason}
        return {**record, "seconds": SECONDS}


def sweep(jobs: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """Examine models one after another.

    Args:
        jobs: Libraries and names.

    Yields:
        One record a model.
    """
    worker = None
    for library, name in jobs:
        if worker is None:
            worker = Worker()
        yield worker.examine(library, name)
        if worker.examined >= _MODELS_A_WORKER:
            worker.close()
            worker = None
    if worker is not None:
        worker.close()


def every(libraries: Sequence[str], pattern: str) -> list[tuple[str, str]]:
    """All models of some libraries whose name fits a pattern with * and ?."""
    import model_builders as builders

    found = [(library, name) for library in libraries for name in builders.names(library)]
    return [job for job in found if fnmatch.fnmatch(job[1], pattern)]


def choose(jobs: list[tuple[str, str]], *, new: bool = False, verdicts: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Those of some models that the committed summary does not answer.

    Args:
        jobs: Libraries and names.
        new: Only models that the summary does not hold.
        verdicts: Only models to which the summary gives one of these verdicts.

    Returns:
        The chosen jobs; all of them, if nothing is asked. Models whose source has attention come first.
    """
    import model_builders as builders

    known = summarised()
    if new:
        jobs = [job for job in jobs if job not in known]
    if verdicts:
        jobs = [job for job in jobs if known.get(job) in verdicts]
    return sorted(jobs, key=lambda job: not builders.names_attention(*job))


def summarised() -> dict[tuple[str, str], str]:
    """The verdict of every library and name in the committed summary."""
    groups = json.loads(SUMMARY.read_text(encoding="utf-8"))["groups"]
    return {(group["library"], name): group["verdict"] for group in groups for name in group["names"]}


def main(jobs: list[tuple[str, str]], output: Path) -> None:
    """Examine what the results file does not hold yet, and add it there line by line."""
    done = {(record["library"], record["name"]) for record in read(output)}
    jobs = [job for job in jobs if job not in done]
    for number, record in enumerate(sweep(jobs), 1):
        with output.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")
        print(f"{number}/{len(jobs)} {record['name']:50} {record['verdict']:12} {record['reason'][:140]}", flush=True)
    counts = Counter((record["library"], record["verdict"]) for record in read(output))
    for library in LIBRARIES:
        print(library, version(library), ", ".join(f"{counts[library, verdict]} {verdict}" for verdict in VERDICTS))


def read(results: Path) -> list[dict[str, Any]]:
    """Records of a results file, each model's newest; none if there is no file."""
    if not results.exists():
        return []
    records = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    return list({(record["library"], record["name"]): record for record in records}.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", choices=LIBRARIES, help="default: both")
    parser.add_argument("--filter", default="*", help="names to examine, with * and ?")
    parser.add_argument("--output", type=Path, default=RESULTS, help="results, one line a model")
    parser.add_argument("--new", action="store_true", help="only models that the committed summary does not hold")
    parser.add_argument("--verdict", choices=VERDICTS, action="append", default=[], help="only models of this verdict")
    arguments = parser.parse_args()
    chosen = choose(
        every((arguments.library,) if arguments.library else LIBRARIES, arguments.filter),
        new=arguments.new,
        verdicts=arguments.verdict,
    )
    main(chosen, arguments.output)

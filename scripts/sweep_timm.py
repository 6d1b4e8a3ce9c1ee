"""Which timm architectures work, which are refused and why: every one is built, run, and put to the proof.

Run: python scripts/sweep_timm.py [--filter 'vit_*'] [--max-parameters 40] [--output sweep.json]

*Works* means proven on the model with random weights: the output under capture is the model's output; the recorded
probabilities times the recorded values are the recorded attention output in every layer; fused and unfused attention
give the same map (where the architecture has both); and changing the pixels of one corner patch changes the first
layer's input at exactly the token that the patch grid names, for three corners. Anything less is *unverified*.
*Refused* means one of our errors; *broken* means any other exception, which is a bug of ours.
"""

import argparse
import json
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from tqdm import tqdm

from attrib_plugin import GradientRollout
from attrib_plugin.capture import CaptureSession, call_probabilities, token_to_token
from attrib_plugin.errors import AttributionError, NothingCapturedError

CLASSES = 10


@dataclass(frozen=True)
class Verdict:
    """What came out for one architecture.

    Attributes:
        name: The architecture.
        verdict: ``"works"``, ``"unverified"``, ``"refused"``, ``"no attention"``, ``"too large"`` or ``"broken"``.
        reason: Why, where it does not work.
    """

    name: str
    verdict: str
    reason: str = ""


def examine(name: str, max_parameters: float) -> Verdict:
    """Build one architecture and put it to the proof."""
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in timm.create_model(name, num_classes=CLASSES).parameters())
    if size > max_parameters * 1e6:
        return Verdict(name, "too large", f"{size / 1e6:.0f} million weights")
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=CLASSES).eval()
    image = torch.randn(2, *resolve_model_data_config(model)["input_size"])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            relevance = GradientRollout(model).attribute(image, target=3, return_input_shape=False)
            failed = failed_proofs(model, image, relevance)
    except NothingCapturedError:
        return Verdict(name, "no attention")
    except AttributionError as error:
        return Verdict(name, "refused", f"{type(error).__name__}: {str(error).split('. ')[0]}")
    except Exception as error:
        return Verdict(name, "broken", f"{type(error).__name__}: {error}")
    return Verdict(name, "unverified", ", ".join(failed)) if failed else Verdict(name, "works")


def failed_proofs(model: nn.Module, image: Tensor, relevance: Tensor) -> list[str]:
    """Names of the proofs that fail."""
    failed = []
    with torch.no_grad():
        plain = model(image)
    with CaptureSession(model, gradients=False) as session:
        session.batch_size = len(image)
        captured = model(image)
    if not torch.allclose(plain, captured, atol=1e-5):
        failed.append("output changes under capture")
    calls = token_to_token(session.calls, allow_pooling=True)
    if not all(_product_agrees(call) for call in calls):
        failed.append("probabilities times values are not the output")
    if not _unfused_agrees(model, image, relevance):
        failed.append("fused and unfused attention differ")
    rows, columns = relevance.shape[-2:]
    corners = [(0, columns - 1), (rows - 1, 0), (rows - 1, columns - 1)]
    if not all(_orientation_agrees(model, image, (rows, columns), corner) for corner in corners):
        failed.append("a corner patch is not the token that the grid names")
    return failed


def _product_agrees(call: object) -> bool:
    probabilities, value = call_probabilities(call), call.value
    if value is None:
        return torch.allclose(call.product(call.weights), call.output, atol=1e-4)
    value = value.reshape(len(probabilities), -1, *value.shape[-2:])
    value = value.repeat_interleave(probabilities.shape[1] // value.shape[1], 1)
    return torch.allclose(probabilities @ value, call.output.reshape(*probabilities.shape[:3], -1), atol=1e-4)


def _unfused_agrees(model: nn.Module, image: Tensor, relevance: Tensor) -> bool:
    switched = [module for module in model.modules() if getattr(module, "fused_attn", False)]
    if not switched:
        return True
    for module in switched:
        module.fused_attn = False
    unfused = GradientRollout(model).attribute(image, target=3, return_input_shape=False)
    for module in switched:
        module.fused_attn = True
    return torch.allclose(unfused, relevance, atol=1e-3 * float(relevance.abs().max()))


def _orientation_agrees(model: nn.Module, image: Tensor, grid: tuple[int, int], corner: tuple[int, int]) -> bool:
    """Whether a change of one patch's pixels reaches exactly its token, most of all."""
    height, width = image.shape[-2] // grid[0], image.shape[-1] // grid[1]
    top, left = corner[0] * height, corner[1] * width
    changed = image.clone()
    changed[..., top : top + height, left : left + width] += 1.0
    difference = (_first_inputs(model, changed) - _first_inputs(model, image)).abs().sum(-1)
    tokens = difference.flatten(0, -2).sum(0)
    prefix = len(tokens) - grid[0] * grid[1]
    return int(tokens.argmax()) == prefix + corner[0] * grid[1] + corner[1]


def _first_inputs(model: nn.Module, image: Tensor) -> Tensor:
    """What the first attention call is asked with: queries, or the probabilities' rows."""
    with CaptureSession(model, gradients=False) as session:
        session.batch_size = len(image)
        model(image)
    first = token_to_token(session.calls, allow_pooling=True)[0]
    return first.value if first.value is not None else first.weights


def main(pattern: str, max_parameters: float, output: Path | None) -> None:
    """Examine architectures and print what came out."""
    names = timm.list_models(pattern)
    verdicts = [examine(name, max_parameters) for name in tqdm(names, unit="model", mininterval=10)]
    for verdict in verdicts:
        print(f"{verdict.name:60} {verdict.verdict:12} {verdict.reason[:140]}")
    counts = Counter(verdict.verdict for verdict in verdicts)
    print(
        f"\ntimm {timm.__version__}, torch {torch.__version__}:", ", ".join(f"{n} {kind}" for kind, n in counts.items())
    )
    if output is not None:
        record = {"timm": timm.__version__, "counts": counts, "models": [asdict(verdict) for verdict in verdicts]}
        output.write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--filter", default="", help="names to examine, with * and ?; default: all")
    parser.add_argument("--max-parameters", type=float, default=40.0, help="in millions; larger ones are skipped")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    main(arguments.filter, arguments.max_parameters, arguments.output)

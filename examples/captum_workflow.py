"""What Captum users already own, on our methods.

Run: python examples/captum_workflow.py [--output FOLDER]
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from captum.attr import LayerAttribution, NoiseTunnel, visualization
from captum.metrics import infidelity, sensitivity_max
from PIL import Image

from attrib_plugin import GradientRollout
from attrib_plugin.app import bundled
from attrib_plugin.evaluation import TokenMask, TokenSwap


def explain_images(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    digits = bundled.load("multi-digits")
    images = torch.stack([digits.transform(Image.open(path)) for path in digits.examples[:2]])
    predicted = digits.model(images).argmax(-1)
    method = GradientRollout(digits.model)

    # One class a sample, as a tensor; a list, or one int for the whole batch, would do as well.
    relevance = method.attribute(images, target=predicted)
    patches = method.attribute(images, target=predicted, return_input_shape=False)
    smooth = NoiseTunnel(method).attribute(images, target=predicted, nt_samples=5, stdevs=0.05)
    pixels = LayerAttribution.interpolate(patches, tuple(images.shape[-2:]), "bilinear")
    print("images", tuple(images.shape), "patches", tuple(patches.shape), "interpolated", tuple(pixels.shape))

    def noise(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        change = 0.1 * torch.randn_like(inputs)
        return change, inputs - change

    unfaithful = infidelity(digits.model, noise, images, relevance, target=predicted, normalize=True)
    unstable = sensitivity_max(method.attribute, images, target=predicted, perturb_radius=0.02)
    print("image infidelity", unfaithful.tolist(), "sensitivity", unstable.tolist())

    figure, _ = visualization.visualize_image_attr(
        np.transpose(smooth[0].numpy(), (1, 2, 0)),
        np.transpose(images[0].numpy(), (1, 2, 0)),
        method="blended_heat_map",
        sign="positive",
        title=f"evidence for {digits.labels[predicted[0]]}",
        use_pyplot=False,
    )
    figure.savefig(folder / "digits.png")


def explain_text() -> None:
    sentiment = bundled.load("sentiment")
    model, tokenizer = sentiment.model, sentiment.tokenizer
    texts = tokenizer(list(sentiment.examples[:2]), padding=True, return_tensors="pt")
    ids, mask = texts["input_ids"], (texts["attention_mask"],)
    method = GradientRollout(model)
    relevance = method.attribute(ids, target=[0, 1], additional_forward_args=mask)

    # Noise needs numbers that can take it: embeddings in place of ids. The mask is repeated with the samples.
    embeddings = model.get_input_embeddings()(ids).detach()
    smooth = NoiseTunnel(method).attribute(
        embeddings, target=[0, 1], additional_forward_args=mask, nt_samples=5, stdevs=0.01, return_input_shape=False
    )
    print("tokens", tuple(relevance.shape), "embeddings", tuple(embeddings.shape), "smoothed", tuple(smooth.shape))

    def logits(tokens: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return model(tokens, attention_mask=attention_mask).logits

    options = {"target": [0, 1], "additional_forward_args": mask}
    special = tokenizer.all_special_ids
    hide = TokenMask(tokenizer.unk_token_id, share=0.2, keep=special, seed=0)
    swap = TokenSwap(range(len(tokenizer)), share=0.1, keep=special, seed=0)
    unfaithful = infidelity(logits, hide.for_infidelity, ids, relevance, normalize=True, **options)
    unstable = sensitivity_max(method.attribute, ids, perturb_func=swap.for_sensitivity, **options)
    print("text infidelity", unfaithful.tolist(), "sensitivity", unstable.tolist())


if __name__ == "__main__":
    torch.manual_seed(0)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo-output/examples"))
    explain_images(parser.parse_args().output)
    explain_text()

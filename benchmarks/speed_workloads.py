"""What ``speed.py`` runs: models and inputs, and the things that are done with them.

Models have random weights, on which neither speed nor memory depends. Parameters are frozen, which makes the plain
backward pass as cheap as it can be; pytorch-grad-cam gets a copy as users have it, since it takes its gradients at a
layer that nothing frozen reaches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attrib_plugin import methods

Run = Callable[[], object]


@dataclass(frozen=True)
class Subject:
    """A model with inputs, ready to be run.

    Attributes:
        model: The model, frozen.
        inputs: Images or token ids.
        embed: Makes of inputs what the baseline's gradient is taken with respect to.
        score: Scores (B, classes) of the model for that.
        targets: The class explained for each sample.
    """

    model: nn.Module
    inputs: Tensor
    embed: Callable[[Tensor], Tensor]
    score: Callable[[Tensor], Tensor]
    targets: Tensor


@dataclass(frozen=True)
class Workload:
    """A model and a size of inputs.

    Attributes:
        about: In words.
        load: Makes it.
        runs: What is timed side by side, in the order of the table; the first is the baseline.
        rounds: How often.
        memory: Of which of the runs the peak memory is measured; by default of none.
    """

    about: str
    load: Callable[[], Subject]
    runs: tuple[str, ...] = ()
    rounds: int = 15
    memory: tuple[str, ...] = field(default=())


# ------------------------------------------------------------------------------------- models


def vit(batch: int) -> Subject:
    """ViT-B/16 at 224 pixels."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model("vit_base_patch16_224", num_classes=1000).eval().requires_grad_(False)
    images = torch.randn(batch, 3, 224, 224)
    return Subject(model, images, lambda pixels: pixels.clone(), model, torch.arange(batch))


def _text(model: nn.Module, batch: int, n_tokens: int, logits: Callable[[Any], Tensor]) -> Subject:
    ids = torch.randint(5, 500, (batch, n_tokens))
    embeddings: nn.Module = model.get_input_embeddings()  # type: ignore[operator]  # transformers' own method
    return Subject(
        model.eval().requires_grad_(False),
        ids,
        lambda tokens: embeddings(tokens).detach(),
        lambda embedded: logits(model(inputs_embeds=embedded)),
        torch.arange(batch) % 2,
    )


def bert(batch: int, n_tokens: int) -> Subject:
    """BERT of 6 layers, 12 heads of 32."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=1000, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536,
        max_position_embeddings=max(512, n_tokens),
    )  # fmt: skip
    return _text(BertForSequenceClassification(config), batch, n_tokens, lambda output: output.logits)


def modernbert(n_tokens: int) -> Subject:
    """ModernBERT-shaped: local and global attention, rotary positions, dense masks of the model's own."""
    from transformers import ModernBertConfig, ModernBertForSequenceClassification

    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=1000, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=384,
        max_position_embeddings=n_tokens, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1,
        sep_token_id=2,
    )  # fmt: skip
    return _text(ModernBertForSequenceClassification(config), 1, n_tokens, lambda output: output.logits)


def llama(n_tokens: int) -> Subject:
    """Llama-shaped: causal attention with grouped queries."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000, hidden_size=256, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=2,
        intermediate_size=512, max_position_embeddings=n_tokens, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return _text(LlamaForSequenceClassification(config), 1, n_tokens, lambda output: output.logits)


# ------------------------------------------------------------------------------------- runs


def _forward(subject: Subject) -> Run:
    def run() -> Tensor:
        with torch.no_grad():
            return subject.score(subject.embed(subject.inputs))

    return run


def _forward_backward(subject: Subject) -> Run:
    def run() -> Tensor:
        source = subject.embed(subject.inputs).requires_grad_()
        chosen = subject.score(source).gather(1, subject.targets[:, None])
        return torch.autograd.grad(chosen.sum(), source)[0]

    return run


def _eager_formula(subject: Subject) -> Run:
    """Gradient rollout as it is usually written: every attention map and its gradient, then matrix products."""

    def run() -> Tensor:
        with _eager_attention() as maps:
            source = subject.embed(subject.inputs).requires_grad_()
            chosen = subject.score(source).gather(1, subject.targets[:, None])
            gradients = torch.autograd.grad(chosen.sum(), maps)
        n_tokens = maps[0].shape[-1]
        relevance = torch.eye(n_tokens).expand(len(subject.inputs), -1, -1)
        for attention, gradient in zip(maps, gradients, strict=True):
            evidence = (attention.detach() * gradient).clamp(min=0).mean(1)
            relevance = relevance + evidence @ relevance
        return relevance[:, 0]

    return run


@contextmanager
def _eager_attention() -> Iterator[list[Tensor]]:
    """Run attention in plain operations for the duration of the block, and collect its maps."""
    maps: list[Tensor] = []
    fused = nn.functional.scaled_dot_product_attention

    def attend(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        maps.append(scores.softmax(-1))
        return maps[-1] @ value

    nn.functional.scaled_dot_product_attention = attend
    try:
        yield maps
    finally:
        nn.functional.scaled_dot_product_attention = fused


def _ours(name: str, **options: Any) -> Callable[[Subject], Run]:
    def make(subject: Subject) -> Run:
        method = getattr(methods, name)(subject.model, **options)
        keywords = {} if name in ("AttentionRollout", "RawAttention") else {"target": subject.targets}
        return lambda: method.attribute(subject.inputs, **keywords)

    return make


def _ten_targets(subject: Subject) -> Run:
    method = methods.GradientRollout(subject.model)
    targets = [torch.full((len(subject.inputs),), one) for one in range(10)]
    return lambda: method.attribute_targets(subject.inputs, targets)


def _captum(name: str, **options: Any) -> Callable[[Subject], Run]:
    def make(subject: Subject) -> Run:
        import captum.attr

        explainer = getattr(captum.attr, name)(subject.score)
        return lambda: explainer.attribute(subject.embed(subject.inputs), target=subject.targets, **options)

    return make


def _layer_grad_cam(subject: Subject) -> Run:
    from captum.attr import LayerGradCam

    explainer = LayerGradCam(subject.score, subject.model.blocks[-1].norm1)
    # Captum takes the gradient at the layer, which a frozen model reaches through its pixels alone.
    return lambda: explainer.attribute(subject.embed(subject.inputs).requires_grad_(), target=subject.targets)


def _pytorch_grad_cam(subject: Subject) -> Run:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model: Any = copy.deepcopy(subject.model).requires_grad_(True)

    def grid(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].reshape(len(tokens), 14, 14, -1).permute(0, 3, 1, 2)

    explainer = GradCAM(model, [model.blocks[-1].norm1], reshape_transform=grid)
    targets = [ClassifierOutputTarget(int(one)) for one in subject.targets]
    return lambda: explainer(subject.inputs, targets)


RUNS: dict[str, Callable[[Subject], Run]] = {
    "forward": _forward,
    "forward and backward": _forward_backward,
    "eager formula": _eager_formula,
    "GradientRollout": _ours("GradientRollout"),
    "GradientRollout, 10 targets": _ten_targets,
    "AttentionRollout": _ours("AttentionRollout"),
    "TransformerAttribution": _ours("TransformerAttribution"),
    "AttentionAwareRelevance": _ours("AttentionAwareRelevance"),
    "LayerwiseRelevance": _ours("LayerwiseRelevance"),
    "Captum Saliency": _captum("Saliency"),
    "Captum IntegratedGradients, 50 steps": _captum("IntegratedGradients", n_steps=50, internal_batch_size=10),
    "Captum LayerGradCam": _layer_grad_cam,
    "pytorch-grad-cam": _pytorch_grad_cam,
}

_FB, _GR = "forward and backward", "GradientRollout"
_PROPAGATION = ("TransformerAttribution", "AttentionAwareRelevance", "LayerwiseRelevance")

WORKLOADS: dict[str, Workload] = {
    "vit-8": Workload(
        "ViT-B/16, 8 images", lambda: vit(8), (_FB, _GR, "eager formula"),
        memory=(_FB, _GR, "eager formula", "TransformerAttribution", "AttentionAwareRelevance", "LayerwiseRelevance"),
    ),
    "vit-1": Workload(
        "ViT-B/16, 1 image", lambda: vit(1),
        (_FB, _GR, "eager formula", "Captum Saliency", "Captum LayerGradCam", "pytorch-grad-cam"),
        memory=(
            _FB, _GR, "eager formula", *_PROPAGATION, "Captum Saliency", "Captum IntegratedGradients, 50 steps",
            "Captum LayerGradCam", "pytorch-grad-cam",
        ),
    ),
    "vit-8-rollout": Workload("ViT-B/16, 8 images", lambda: vit(8), ("forward", "AttentionRollout")),
    "vit-1-rollout": Workload("ViT-B/16, 1 image", lambda: vit(1), ("forward", "AttentionRollout")),
    "vit-1-integrated": Workload(
        "ViT-B/16, 1 image", lambda: vit(1), (_GR, "Captum IntegratedGradients, 50 steps"),
    ),
    "vit-1-propagation": Workload("ViT-B/16, 1 image", lambda: vit(1), (_FB, *_PROPAGATION)),
    "vit-8-propagation": Workload("ViT-B/16, 8 images", lambda: vit(8), (_FB, *_PROPAGATION)),
    "vit-1-targets": Workload("ViT-B/16, 1 image", lambda: vit(1), (_GR, "GradientRollout, 10 targets")),
    "bert-512": Workload(
        "BERT 6 x 12 x 32, 2 texts of 512 tokens", lambda: bert(2, 512), (_FB, _GR, "eager formula"),
        memory=(_FB, _GR, "eager formula"),
    ),
    "bert-1024": Workload("BERT 6 x 12 x 32, 1,024 tokens", lambda: bert(1, 1024), memory=(_FB, _GR, "eager formula")),
    "bert-2048": Workload("BERT 6 x 12 x 32, 2,048 tokens", lambda: bert(1, 2048), memory=(_FB, _GR, "eager formula")),
    "bert-4096": Workload("BERT 6 x 12 x 32, 4,096 tokens", lambda: bert(1, 4096), (_FB, _GR), memory=(_FB, _GR)),
    "bert-8192": Workload("BERT 6 x 12 x 32, 8,192 tokens", lambda: bert(1, 8192), memory=(_FB, _GR)),
    "modernbert-16384": Workload(
        "ModernBERT-shaped, 4 layers, 16,384 tokens", lambda: modernbert(16384), memory=(_FB, _GR)
    ),
    "llama-16384": Workload("Llama-shaped, 4 layers, 16,384 tokens", lambda: llama(16384), memory=(_FB, _GR)),
}  # fmt: skip

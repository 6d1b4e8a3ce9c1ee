"""Images against texts: two towers side by side, and the score of each pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from captum._utils.common import _format_additional_forward_args
from torch import Tensor, nn

from attrib_plugin.capture import call_padding, calls_within, n_tokens, pooling_weights, token_to_token
from attrib_plugin.errors import InputError, TargetError, UnknownModelError, UnsupportedAttentionError
from attrib_plugin.families import Member, ReadoutArgument, TokenFacts, Tower, find_member, token_layout, written
from attrib_plugin.methods.base.forward_pass import Arrangement, Query
from attrib_plugin.methods.base.inputs import ModelInput, check_input
from attrib_plugin.methods.base.targets import Target, unwrap_output
from attrib_plugin.records import AttentionCall, AttentionTrace, TokenLayout

_OF_TEXTS = ("attention_mask", "position_ids", "token_type_ids")


@dataclass(frozen=True, eq=False)
class TowerInside:
    """A tower found in a model.

    Attributes:
        path: Dotted name of the part whose attention is the tower's.
        member: The part as recognised, with what is read of it.
        argument: Keyword of its input; ``None`` if that is not known.
    """

    path: str
    member: Member
    argument: str | None = None


@dataclass(frozen=True, eq=False)
class PairInput(ModelInput):
    """One checked set of pairs; ``tensor`` holds the image of every pair.

    Attributes:
        texts: Token ids under ``"ids"`` and further keywords of the texts, one row a pair.
        contrasts: The same of the texts whose scores are subtracted.
        by_keyword: Keywords of images and token ids; ``None`` to pass them by position.
        text_readout: The user's read-out of the texts.
    """

    texts: Mapping[str, Tensor] = field(default_factory=dict)
    contrasts: Mapping[str, Tensor] | None = None
    by_keyword: tuple[str, str] | None = None
    text_readout: ReadoutArgument = None

    @property
    def every_text(self) -> dict[str, Tensor]:
        """Texts with the contrasts below them."""
        if self.contrasts is None:
            return dict(self.texts)
        return {name: torch.cat([value, self.contrasts[name]]) for name, value in self.texts.items()}

    def call(self, forward_func: Callable[..., Any]) -> Tensor:
        """Run the model once.

        Args:
            forward_func: The model, or a function around it.

        Returns:
            The score of every pair, minus that of its contrast.
        """
        return _pair_scores(super().call(forward_func), len(self.tensor), len(self.every_text["ids"]))

    @property
    def passed(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional arguments and keyword arguments of the call."""
        texts = self.every_text
        both = self.tensor if self.keeps_graph else self.tensor.detach(), texts.pop("ids")
        if self.by_keyword is None:
            return (*both, *self.arguments), {**texts, **self.keywords}
        return (), {**dict(zip(self.by_keyword, both, strict=True)), **texts, **self.keywords}

    def batches(self, size: int | None) -> Iterator[tuple[slice, ModelInput]]:
        """Cut into smaller batches of pairs.

        Args:
            size: Largest number of pairs run at once; ``None`` is all.

        Yields:
            Which pairs, and their arguments.
        """
        for part, given in super().batches(size):
            texts = {name: value[part] for name, value in self.texts.items()}
            contrasts = self.contrasts and {name: value[part] for name, value in self.contrasts.items()}
            pairs = replace(self, tensor=given.tensor, arguments=given.arguments, keywords=given.keywords)
            readout = self._cut(part)(self.text_readout)
            yield part, replace(pairs, texts=texts, contrasts=contrasts, text_readout=readout)


def find_towers(model: nn.Module, member: Member, given: tuple[nn.Module, nn.Module] | None) -> list[TowerInside]:
    """Image tower and text tower of a model.

    Args:
        model: The model.
        member: The model as recognised.
        given: The user's towers; ``None`` asks the family.

    Returns:
        The two towers.

    Raises:
        UnknownModelError: If the towers cannot be known.
        InputError: If a given tower is no part of the model.
    """
    # Compiled parts are named in a session as they were before.
    names = {id(module): name.replace("_orig_mod.", "") for name, module in model.named_modules()}
    if given is not None:
        if any(id(tower) not in names for tower in given):
            raise InputError(f"towers=(image tower, text tower) must be parts of the {type(model).__name__}.")
        return [TowerInside(names[id(tower)], find_member(tower).unrefused) for tower in given]
    if member.family.towers is None:
        raise UnknownModelError(
            f"It is not known which parts of {type(member.module).__name__} (family {member.family.name}) read images "
            "and texts. Give them as an argument: ImageTextRelevance(model, towers=(image tower, text tower))."
        )
    return [_known_tower(names, member.module, tower) for tower in member.family.towers]


def check_pairs(
    towers: list[TowerInside],
    inputs: Any,
    target: Target,
    additional_forward_args: Any,
    *,
    against: Target = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    text_readout: ReadoutArgument = None,
    by_keyword: bool = False,
) -> PairInput:
    """Check images and texts before the model is run, and pair them.

    Args:
        towers: The two towers.
        inputs: Images, or images and token ids.
        target: Which text each image is scored against.
        additional_forward_args: Positional arguments after the images, or after both.
        against: Which text's score is subtracted.
        forward_kwargs: Keyword arguments.
        text_readout: The user's read-out of the texts.
        by_keyword: Whether images and ids are passed by keyword.

    Returns:
        The pairs.

    Raises:
        InputError: If an input cannot be right, or images and texts cannot be paired.
        TargetError: If a target names no text.
    """
    arguments = tuple(_format_additional_forward_args(additional_forward_args) or ())
    both = inputs if isinstance(inputs, tuple) and len(inputs) == 2 else None
    if both is None and arguments:
        images, ids, arguments = inputs, arguments[0], arguments[1:]
    elif both is None:
        raise InputError("Expected inputs=(images, token ids), or images with the ids as additional_forward_args.")
    else:
        images, ids = both
    keywords = dict(forward_kwargs or {})
    of_texts = {name: keywords.pop(name) for name in _OF_TEXTS if name in keywords}
    image_tower, text_tower = towers
    names = (image_tower.argument, text_tower.argument)
    if by_keyword and arguments:
        raise InputError("Expected no further positional arguments; give masks and the like as forward_kwargs.")
    given = check_input(images, arguments, keywords, None, image_tower.member)
    texts = check_input(ids, None, of_texts, None, text_tower.member)
    if given.image_size is None or texts.tensor.dim() != 2:
        found = f"{tuple(given.tensor.shape)} and {tuple(texts.tensor.shape)}"
        raise InputError(f"Expected images (B, C, H, W) and token ids (K, T), found {found}.")
    counts = len(given.tensor), len(texts.tensor)
    rows, columns = _pairs(target, *counts)
    rows_of_texts = {"ids": texts.tensor, **{name: _rows(value, counts[1]) for name, value in of_texts.items()}}
    contrasts = None if against is None else _chosen(against, len(rows), counts[1], "against")
    return PairInput(
        tensor=given.tensor[rows],
        in_tuple=isinstance(inputs, tuple),
        arguments=arguments,
        keywords=keywords,
        texts={name: value[columns] for name, value in rows_of_texts.items()},
        contrasts=None if contrasts is None else {name: value[contrasts] for name, value in rows_of_texts.items()},
        by_keyword=(names[0], names[1]) if by_keyword and names[0] and names[1] else None,
        text_readout=text_readout,
    )


def image_form(text_readout: ReadoutArgument, text: Member) -> str:
    """How the read-out of images is written beside that of texts, in the call that a message shows.

    Args:
        text_readout: The user's read-out of the texts.
        text: The text tower as recognised.

    Returns:
        A format for the read-out of images.
    """
    return f"readout=({{}}, {_written(text_readout, text)})"


def text_form(image_readout: ReadoutArgument, image: Member) -> str:
    """How the read-out of texts is written beside that of images, in the call that a message shows.

    Args:
        image_readout: The user's read-out of the images.
        image: The image tower as recognised.

    Returns:
        A format for the read-out of texts.
    """
    return f"readout=({_written(image_readout, image)}, {{}})"


def two_towers(
    towers: list[TowerInside], member: Member, query: Query, calls: tuple[AttentionCall, ...]
) -> Arrangement:
    """Self-attention of an image tower and of a text tower, side by side.

    Args:
        towers: The two towers.
        member: The image tower as recognised.
        query: What is asked, of pairs.
        calls: All calls of the forward pass.

    Returns:
        The arrangement. Its trace is that of the image tower and has the text tower's as part ``"text"``.

    Raises:
        UnsupportedAttentionError: If some attention belongs to neither tower.
    """
    given = query.given
    if not isinstance(given, PairInput):
        raise TypeError("Two towers take pairs.")
    texts = given.every_text["ids"]
    of_images, of_texts = (calls_within(calls, tower.path) for tower in towers)
    of_texts = tuple(replace(call, batch_size=len(texts)) for call in of_texts)
    neither = {call.index for call in calls} - {call.index for call in (*of_images, *of_texts)}
    if neither:
        first = next(call for call in calls if call.index in neither)
        raise UnsupportedAttentionError(
            f"{first.name!r} belongs neither to the image tower nor to the text tower ({len(neither)} of {len(calls)} "
            "calls); this method follows towers that meet in the score alone."
        )
    known = query.readout is not None or member.readout is not None
    images = token_to_token(of_images, allow_pooling=known)
    words = token_to_token(of_texts, allow_pooling=False)
    layout = _text_layout(towers[1].member, replace(query, form=text_form(query.readout, member)), given, words)

    def split(trace: AttentionTrace) -> AttentionTrace:
        gradients = trace.output_gradients
        above = gradients and gradients[: len(images)]
        below = gradients and gradients[len(images) :]
        text = AttentionTrace(words, layout, below, max_chunk_bytes=trace.max_chunk_bytes)
        return replace(trace, calls=images, output_gradients=above, parts={"text": text})

    facts = TokenFacts(
        n_tokens=n_tokens(images),
        batch_size=given.batch_size,
        n_text_tokens=None,
        image_size=given.image_size,
        padding=None,
        like=images[0].output,
        pooling=pooling_weights(of_images),
    )
    return Arrangement((*images, *words), facts, split)


def _written(readout: ReadoutArgument, member: Member) -> str:
    return '"mean"' if readout is None and member.readout is None else written(readout)


def _known_tower(names: Mapping[int, str], whole: nn.Module, tower: Tower) -> TowerInside:
    part = whole.get_submodule(tower.part)
    member = find_member(part).unrefused
    own, own_positions = member.readout, member.family.read_positions

    def positions(module: Any, inputs: Tensor) -> Tensor | None:
        of_pair = tower.read_positions(whole, inputs)
        return own_positions(module, inputs) if of_pair is None else of_pair

    family = replace(member.family, readout=lambda module: tower.readout(whole) or own, read_positions=positions)
    return TowerInside(names[id(part)], Member(family, member.module), tower.argument)


def _text_layout(member: Member, query: Query, given: PairInput, calls: tuple[AttentionCall, ...]) -> TokenLayout:
    ids = given.every_text["ids"]
    facts = TokenFacts(
        n_tokens=n_tokens(calls),
        batch_size=len(ids),
        n_text_tokens=ids.shape[1],
        image_size=None,
        padding=call_padding(calls[0]),
        like=calls[0].output,
    )
    readout = given.text_readout
    if isinstance(readout, Tensor) and given.contrasts is not None and len(readout) == given.batch_size:
        readout = torch.cat([readout, readout])
    if readout is None:
        readout = member.family.read_positions(member.module, ids)
    return token_layout(member, facts, readout=readout, opening=query.opening, form=query.form)


def _pair_scores(output: Any, n_pairs: int, n_texts: int) -> Tensor:
    """One score a pair, minus that of the contrast where there are twice as many texts as images."""
    features = _features(output)
    if features is not None:
        images, texts, scale = features
        difference = texts[:n_pairs] - texts[n_pairs:] if n_texts > n_pairs else texts
        return torch.sum(scale * images * difference, -1)
    logits = getattr(output, "logits_per_image", None)
    scores = unwrap_output(output if logits is None else logits)
    if scores.shape == (n_pairs,) and n_texts == n_pairs:
        return scores
    if scores.shape != (n_pairs, n_texts):
        raise TargetError(
            f"Expected scores of {n_pairs} images against {n_texts} texts, found the output {tuple(scores.shape)}. "
            "Return logits_per_image, or image features, text features and their scale."
        )
    own = scores[:, :n_pairs].diagonal()
    return own - scores[:, n_pairs:].diagonal() if n_texts > n_pairs else own


def _features(output: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    """Image features, text features and their scale, where the model returns those in place of scores."""
    names = ("image_features", "text_features", "logit_scale")
    if isinstance(output, Mapping) and all(name in output for name in names):
        output = tuple(output[name] for name in names)
    if not isinstance(output, (tuple, list)) or not all(isinstance(part, Tensor) for part in output[:3]):
        return None
    if len(output) < 3 or output[0].dim() != 2 or output[0].shape[-1] != output[1].shape[-1]:
        return None
    return output[0], output[1], output[2]


def _pairs(target: Target, n_images: int, n_texts: int) -> tuple[Tensor, Tensor]:
    if target is not None:
        return torch.arange(n_images), _chosen(target, n_images, n_texts, "target")
    if n_images != n_texts and 1 not in (n_images, n_texts):
        raise InputError(
            f"{n_images} images and {n_texts} texts do not make pairs. Give as many of both, one of either, or the "
            "index of each image's text as target."
        )
    count = max(n_images, n_texts)
    return torch.arange(count) % n_images, torch.arange(count) % n_texts


def _chosen(target: Target, n_pairs: int, n_texts: int, what: str) -> Tensor:
    try:
        indices = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TargetError(f"Expected the index of a text for each image as {what}: {error}.") from error
    if indices.dtype not in (torch.int64, torch.int32, torch.int16) or indices.numel() not in (1, n_pairs):
        raise TargetError(
            f"Expected {what} to be the index of a text, or one for each of {n_pairs} images, found {target!r}."
        )
    if ((indices < 0) | (indices >= n_texts)).any():
        raise TargetError(f"{what} {indices.tolist()} is out of range: there are {n_texts} texts, 0 to {n_texts - 1}.")
    return indices.flatten().expand(n_pairs).long().cpu()


def _rows(value: Any, n_texts: int) -> Tensor:
    if not isinstance(value, Tensor) or value.dim() != 2 or len(value) not in (1, n_texts):
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"Masks and positions of {n_texts} texts must be tensors ({n_texts}, T), found {shape}.")
    return value.expand(n_texts, -1)

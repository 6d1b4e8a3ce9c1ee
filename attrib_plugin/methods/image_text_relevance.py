"""Relevance of image patches and of words for the score of an image against a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attrib_plugin.errors import InputError
from attrib_plugin.functional.choices import check_choice
from attrib_plugin.methods.base import (
    SIGNS,
    AttentionAttribution,
    AttentionLayer,
    Query,
    RowBlock,
    Sign,
    Subject,
    check_call,
    check_pairs,
    check_targets,
    evidence_by_sign,
    find_towers,
    from_the_top,
    image_form,
    layers_of,
    net_evidence,
    opening_of,
    two_towers,
    warn_of_silence,
)
from attrib_plugin.records import AttentionTrace, Preset, TokenLayout


class ImageTextRelevance(AttentionAttribution):
    """Which patches and which words the score of an image against a text rests on, for CLIP and its relatives.

    One forward pass of the unmodified model on pairs of an image and a text, one backward pass from the scores of the
    pairs, and the generic rule of Chefer et al. in each tower. Known are ``CLIPModel`` and ``SiglipModel`` of
    transformers and ``CLIP`` and ``CustomTextCLIP`` of open_clip; other models with two towers take ``towers``.

    Formula, in each tower: ``E_l = mean_h (±∂y/∂A_l ⊙ A_l)⁺`` and ``R ← R + E_l·R`` from ``R = I``; the map is the row
    of what the score reads (class token or attention pooling; end of text), minus its own start. ``y`` is the logit
    of the pair, or minus that of the image with another text (``against``).

    Units: those of the logit, first order; image and text have no common scale with other pairs, and no sum that they
    must reach. Sign: as in :class:`GradientRollout`.

    ``matrix``, ``layer_attention`` and ``layer_rows`` are those of the image tower; :meth:`matrices` gives both.

    Cost: one forward and one backward pass of both towers for all pairs, and the probabilities once more in blocks.
    Memory: that of the passes, and one block. A text that belongs to several pairs is run once for each.

    Args:
        forward_func: The model, called with the keywords of its family, or a function called as (images, token ids)
            that returns scores (images, texts) or (pairs,), or image features, text features and their scale.
        sign: ``"positive"``, ``"negative"`` or ``"signed"``.
        start_layer: First layer of the recursion, from 0, or from -1 downwards from the top; two for image and text.
        words_only: Keep the text's relevance between its first token and the token read, divided by the sum of its
            absolute values; 0/0 is 0.
        towers: Image tower and text tower, parts of the model, where no family knows them.
        readout: Two read-outs, for image and text, each as in :class:`AttentionAttribution`; ``None`` asks the family.
        **options: ``model``, ``grid`` and ``prefix_tokens``.

    Raises:
        ValueError: If ``sign`` is unknown, or (when the model is run) ``start_layer`` is no layer.
        UnknownModelError: If the towers cannot be known.

    Reference:
        Chefer, Gur and Wolf 2021b, arXiv:2103.15679, equations 5 and 6, as in the authors' notebook for CLIP.
    """

    needs_gradients = True
    presets: ClassVar[Mapping[str, Preset]] = {
        "clip_interpret": Preset(
            options={"sign": "positive", "start_layer": -1, "words_only": True},
            paper="Chefer, Gur and Wolf 2021b, arXiv:2103.15679",
            repository="hila-chefer/Transformer-MM-Explainability",
            note="The CLIP notebook: by its default of -1 the last layer alone; words sum to one.",
        )
    }
    _silence = "its gradient vanishes, or all evidence has the other sign."

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        sign: Sign = "positive",
        start_layer: int | tuple[int, int] = 0,
        words_only: bool = False,
        towers: tuple[nn.Module, nn.Module] | None = None,
        readout: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(forward_func, readout=readout, **options)
        check_choice("sign", sign, tuple(SIGNS))
        self.sign: Sign = sign
        self.start_layer = start_layer
        self.words_only = words_only
        self._whole, self._are_given = self._member.module, towers is not None
        self._towers = find_towers(self.model, self._member, towers)
        self._member = self._towers[0].member

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        forward_kwargs: Mapping[str, Any] | None = None,
        against: Any = None,
        readout: Any = None,
        return_input_shape: bool = True,
        internal_batch_size: int | None = None,
    ) -> Any:
        """Relevance of patches and words.

        Args:
            inputs: Images (B,C,H,W) and token ids (K,T) as a tuple; or images alone, with the ids as first of
                ``additional_forward_args``, for consumers such as ``NoiseTunnel`` that change every input.
            target: Index of the text that each image is scored against: an int, or one for each image. ``None`` pairs
                image i with text i; one image goes with every text, and one text with every image.
            additional_forward_args: Further positional arguments of the forward function.
            forward_kwargs: Keyword arguments; ``attention_mask`` and ``position_ids`` are those of the texts.
            against: Index of the text whose score is subtracted, in the same forms. The text map stays that of
                ``target``.
            readout: Overrides the constructor's.
            return_input_shape: As in :class:`AttentionAttribution`, for the images.
            internal_batch_size: Largest number of pairs run at once.

        Returns:
            For a tuple of images and ids, the maps (P,C,H,W) or (P,1,rows,columns), and (P,T), of P pairs; for images
            alone, the image map.

        Raises:
            InputError: If an input cannot be right, or images and texts cannot be paired.
            TargetError: If a target names no text, or the model returns no score a pair.
            CaptureError: If the model's attention cannot be read or followed.
        """
        query = self._query(
            inputs,
            additional_forward_args,
            targets=(target,),
            forward_kwargs=forward_kwargs,
            against=against,
            readout=readout,
            internal_batch_size=internal_batch_size,
        )

        def maps(trace: AttentionTrace) -> tuple[Tensor, ...]:
            return self._map(trace, query, return_input_shape), self._text_map(trace)

        image, text = self._explain(query, maps)[0]
        if not query.given.in_tuple:
            return image
        return (image, text) if len(inputs) == 2 else (image,)

    def attribute_targets(
        self, inputs: Any, targets: Sequence[Any], additional_forward_args: Any = None, **options: Any
    ) -> Any:
        """Relevance for several choices of texts; each takes a forward pass of its own.

        Args:
            inputs: As in :meth:`attribute`.
            targets: K targets, each in any form that :meth:`attribute` takes.
            additional_forward_args: As in :meth:`attribute`.
            **options: The keyword arguments of :meth:`attribute`.

        Returns:
            What :meth:`attribute` returns, with an axis of K targets in front.

        Raises:
            InputError: If there is no target, or as in :meth:`attribute`.
        """
        check_targets(targets)
        maps = [self.attribute(inputs, target, additional_forward_args, **options) for target in targets]
        return tuple(map(torch.stack, zip(*maps, strict=True))) if isinstance(inputs, tuple) else torch.stack(maps)

    def matrices(
        self, inputs: Any, target: Any = None, additional_forward_args: Any = None, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Relevance of every token for every token of its tower, the identity included but for ``"signed"``.

        Args:
            inputs: As in :meth:`attribute`.
            target: As in :meth:`attribute`.
            additional_forward_args: As in :meth:`attribute`.
            **options: ``forward_kwargs``, ``against``, ``readout`` and ``internal_batch_size`` of :meth:`attribute`.

        Returns:
            (P,N,N) with prefix tokens for the images and (P,T,T) for the texts; rows are output tokens.
        """
        query = self._query(inputs, additional_forward_args, targets=(target,), **options)

        def both(trace: AttentionTrace) -> tuple[Tensor, ...]:
            return self._matrix(trace), self._of_pairs(self._matrix(trace.parts["text"]), trace)

        image, text = self._explain(query, both)[0]
        return image, text

    @property
    def _subject(self) -> Subject:
        return replace(super()._subject, arrange=partial(two_towers, self._towers))

    def _query(self, inputs: Any, additional_forward_args: Any, **options: Any) -> Query:
        readouts = self.readout if options.get("readout") is None else options["readout"]
        if readouts is not None and not (isinstance(readouts, tuple) and len(readouts) == 2):
            raise InputError("Expected readout=(of the image, of the text), each a read-out or None.")
        image_readout, text_readout = readouts or (None, None)
        (target,) = options.get("targets", (None,))
        given = check_pairs(
            self._towers,
            inputs,
            target,
            additional_forward_args,
            against=options.get("against"),
            forward_kwargs=options.get("forward_kwargs"),
            text_readout=text_readout,
            by_keyword=isinstance(self.forward_func, nn.Module) and self._towers[0].argument is not None,
        )
        check_call(self.forward_func, self._whole, *given.passed)
        return Query(
            given=given,
            readout=image_readout,
            grid=self.grid,
            prefix_tokens=self.prefix_tokens,
            internal_batch_size=options.get("internal_batch_size"),
            max_chunk_bytes=self.max_chunk_bytes,
            opening=opening_of(self) + (", towers=towers" if self._are_given else ""),
            form=image_form(text_readout, self._towers[1].member),
        )

    def _evidence(self, block: RowBlock) -> Tensor:
        return evidence_by_sign(block, self.sign)

    def _net(self, by_sign: Tensor) -> Tensor:
        return net_evidence(by_sign, self.sign)

    def _rows(self, layers: Sequence[AttentionLayer], readout: Tensor, layout: TokenLayout) -> Tensor:
        starts = self.start_layer if isinstance(self.start_layer, tuple) else (self.start_layer, self.start_layer)
        start = starts[0] if layout.grid is not None else starts[1]
        start = start + layers[0].n_layers if start < 0 else start
        gained = readout.new_zeros(len(SIGNS[self.sign]), *readout.shape)
        for layer in from_the_top(layers, start):
            gained = gained + layer.times(readout + gained, self._evidence, averages_heads=True, keeps_nothing=True)
        return self._net(gained)

    def _layer_matrices(self, trace: AttentionTrace) -> tuple[Tensor, ...]:
        return tuple(self._net(layer.matrix(self._evidence)) for layer in layers_of(trace))

    def _matrix(self, trace: AttentionTrace) -> Tensor:
        gained = super()._matrix(trace)
        if self.sign == "signed":
            return gained
        return gained + torch.eye(gained.shape[-1], dtype=gained.dtype, device=gained.device)

    def _of_pairs(self, by_text: Tensor, trace: AttentionTrace) -> Tensor:
        """What belongs to the texts of the pairs; below them stand contrasts, of which no map is asked."""
        return by_text[: len(trace.layout.readout)]

    def _text_map(self, trace: AttentionTrace) -> Tensor:
        text = trace.parts["text"]
        relevance = self._of_pairs(self._row(layers_of(text), text.layout), trace)
        if self.words_only:
            positions = torch.arange(relevance.shape[-1], device=relevance.device)
            read = self._of_pairs(text.layout.readout, trace).argmax(-1, keepdim=True)
            relevance = relevance * ((positions > 0) & (positions < read))
            sums = relevance.abs().sum(-1, keepdim=True)
            relevance = relevance / sums.where(sums != 0, torch.ones_like(sums))
        warn_of_silence(relevance, self._silence)
        return relevance

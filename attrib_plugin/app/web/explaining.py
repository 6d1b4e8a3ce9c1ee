"""From what a user chose to HTML: predictions, maps side by side, attention views, and the report."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from attrib_plugin import methods
from attrib_plugin.app.bundled import BundledModel
from attrib_plugin.app.web.controls import INTEGRATED_GRADIENTS, options_for
from attrib_plugin.errors import AttributionError, InputError
from attrib_plugin.postprocessing import merge_words
from attrib_plugin.runner.attention_view import view
from attrib_plugin.runner.compare import compare
from attrib_plugin.runner.explain import explain
from attrib_plugin.runner.explanation import Explanation
from attrib_plugin.runner.report import Section, report_html
from attrib_plugin.visualization import AGAINST, FOR, SHARE

_MOST_CLASSES = 5
_MOST_METHODS = 6


@dataclass(frozen=True, eq=False)
class Request:
    """What a user asked for.

    Attributes:
        bundle: The model.
        given: A text, or a PIL image.
        methods: Names of methods.
        target: Class to explain; ``None`` is the predicted one.
        against: Class to contrast it with.
        values: Values of the controls by name.
    """

    bundle: BundledModel
    given: Any
    methods: Sequence[str]
    target: int | None = None
    against: int | None = None
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What the page shows.

    Attributes:
        explanations: One a method that worked, in the order asked for.
        failures: What went wrong, by method.
        html: Predictions, maps and a link to the report; everything in it is escaped.
    """

    explanations: tuple[Explanation, ...]
    failures: dict[str, str]
    html: str


def answer(request: Request) -> Answer:
    """Explain a prediction with each method that was asked for.

    Args:
        request: What was asked for.

    Returns:
        Explanations, and the HTML that shows them.

    Raises:
        AttributionError: If no method can explain this.
    """
    if not request.methods:
        raise InputError("Choose at least one method.")
    if len(request.methods) > _MOST_METHODS:
        raise InputError(f"Choose {_MOST_METHODS} methods at most; {len(request.methods)} are chosen.")
    if request.target is not None and request.target == request.against:
        raise InputError("The class and the opposing class are the same. Choose two different ones.")
    found: list[Explanation] = []
    failures: dict[str, str] = {}
    for method in request.methods:
        try:
            found.append(_explain(method, request))
        except (AttributionError, ValueError, NotImplementedError) as error:
            if len(request.methods) == 1:
                raise
            failures[method] = str(error)
    if not found:
        raise InputError("; ".join(f"{method}: {said}" for method, said in failures.items()))
    return Answer(tuple(found), failures, _page(found, failures))


def attention_html(bundle: BundledModel, given: Any, kind: str) -> str:
    """The attention of a model as a page to click through, in a frame without access to the demo.

    Args:
        bundle: The model.
        given: A text, or a PIL image.
        kind: As :func:`~attrib_plugin.runner.attention_view.view` takes it.

    Returns:
        HTML.

    Raises:
        AttributionError: If its attention cannot be read.
    """
    shown = view(bundle.model, given, kind=kind, tokenizer=bundle.tokenizer, processor=bundle.transform)  # type: ignore[arg-type]  # checked there
    return shown._repr_html_()


def _explain(method: str, request: Request) -> Explanation:
    bundle = request.bundle
    reader: dict[str, Any] = {"tokenizer": bundle.tokenizer, "processor": bundle.transform}
    if method == INTEGRATED_GRADIENTS:
        return _integrated_gradients(request, reader)
    return explain(
        bundle.model,
        request.given,
        method=getattr(methods, method),
        target=request.target,
        against=request.against,
        labels=bundle.labels,
        multilabel=bundle.multilabel,
        **reader,
        **options_for(method, request.values),
    )


def _integrated_gradients(request: Request, reader: dict[str, Any]) -> Explanation:
    """Captum's integrated gradients, from mask tokens or a mean image, in the form of the other explanations."""
    bundle = request.bundle
    found = compare(
        bundle.model,
        request.given,
        [INTEGRATED_GRADIENTS],
        target=request.target,
        memory=False,
        labels=bundle.labels,
        multilabel=bundle.multilabel,
        **reader,
    )
    (result,) = found.results
    is_image = found.modality == "image"
    if result.relevance is None:
        raise InputError(f"{INTEGRATED_GRADIENTS} failed: {result.error}")
    relevance = result.relevance.reshape(result.relevance.shape[-2 if is_image else -1 :]).float().cpu()
    shown: dict[str, Any] = {"pixels": found.pixels[0]} if is_image else {
        "text": request.given,
        "tokens": found.tokens[0],
        "words": found.words[0],
        "word_relevance": merge_words(relevance, found.words[0]),
    }  # fmt: skip
    return Explanation(
        method="Integrated Gradients",
        settings={"baseline": found.baseline},
        target=found.targets[0],
        against=None,
        predictions=found.predictions[0],
        relevance=relevance,
        tone=result.tone if result.tone in ("for", "against", "signed", "share") else "signed",
        seconds=result.seconds,
        versions=found.versions,
        **shown,
    )


def _page(found: Sequence[Explanation], failures: dict[str, str]) -> str:
    parts = [_predictions(found[0]), _legend(found), *(_failure(method, said) for method, said in failures.items())]
    parts += [_silence(one) for one in found if not one.relevance.any()]
    section = Section("", found)
    if found[0].pixels is None:
        parts += [f'<h3>{escape(one.title)}</h3><div class="paper">{one.shaded()}</div>{_cost(one)}' for one in found]
    else:
        titles = "; ".join(one.title for one in found)
        parts.append(f'<div class="paper"><img class="maps" alt="{escape(titles)}" src="{section.figure}"></div>')
        parts += [f'<p class="quiet">{escape(one.title)}: {_settings(one)}</p>' for one in found]
    parts.append(_report_link(found))
    return f'<div class="answer">{"".join(parts)}</div>'


def _predictions(one: Explanation) -> str:
    if len(one.predictions) == 1:
        return f"<p>{escape(one.predicted)}</p>"
    rows = "".join(
        f"<tr><td>{escape(each.label)}</td><td>{each.probability:.1%}</td>"
        f'<td><span class="bar" style="width:{10 * min(max(each.probability, 0), 1):.2f}rem"></span></td></tr>'
        for each in one.predictions[:_MOST_CLASSES]
    )
    return f'<table class="predictions" aria-label="Predictions">{rows}</table>'


def _legend(found: Sequence[Explanation]) -> str:
    tones = {one.tone for one in found}
    colors = [
        (FOR, "evidence for the class", tones & {"for", "signed"}),
        (AGAINST, "evidence against it", tones & {"against", "signed"}),
        (SHARE, "share of attention, the same for every class", tones & {"share"}),
    ]
    shown = "".join(f'<span style="background:{color}">{meaning}</span>' for color, meaning, wanted in colors if wanted)
    return f'<p class="legend">{shown}</p><p class="quiet">Each map has a scale of its own.</p>'


def _failure(method: str, said: str) -> str:
    return f'<p class="failure"><b>{escape(method)}</b> gives no map here: {escape(said)}</p>'


def _silence(one: Explanation) -> str:
    return f'<p class="failure">All values of {escape(one.title)} are zero.</p>'


def _cost(one: Explanation) -> str:
    return f'<p class="quiet">{_settings(one)}</p>'


def _settings(one: Explanation) -> str:
    return f"{escape(one.described_settings)}{1000 * one.seconds:.0f} ms"


def _report_link(found: Sequence[Explanation]) -> str:
    """The report inside of the link, so that no file of a user's stays on the server."""
    subject = found[0].text or "An image"
    heading = subject if len(subject) <= 80 else subject[:79] + "…"
    page = report_html([Section(heading, found)], title="attrib_plugin: explanation")
    held = base64.b64encode(page.encode("utf-8")).decode("ascii")
    size = f"HTML, {len(held) * 3 // 4000} kB"
    return (
        '<p><a class="download" download="attrib_plugin-report.html" '
        f'href="data:text/html;charset=utf-8;base64,{held}">Download the report ({size})</a></p>'
    )

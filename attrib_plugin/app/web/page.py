"""The layout of the demo: two tabs of the same build, one for texts and one for images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import wraps
from html import escape
from typing import Any

import gradio as gr

from attrib_plugin.app.web.controls import OPTIONS, method_choices, users
from attrib_plugin.app.web.explaining import Request, answer, attention_html
from attrib_plugin.app.web.models import Modality, ModelShelf
from attrib_plugin.app.web.pictures import MAX_CHARACTERS, MAX_MEGABYTES, check_text, read_picture
from attrib_plugin.errors import AttributionError

_DEFAULT = {
    "text": ["GradientRollout", "AttentionRollout", "IntegratedGradients"],
    "image": ["GradientRollout", "TokenGradCam", "AttentionRollout"],
}
_HEADS = [("lines by head", "head"), ("all layers and heads", "model")]
_VIEWS = {
    "text": [*_HEADS, ("flow between layers", "flow")],
    "image": [("over the image", "image"), *_HEADS],
}
_NONE = -1
_FULL_LAYERS = 48
_INTRO = """# What does a prediction rest on?

Several methods, one prediction, side by side. Attention-based methods explain a transformer only in part; where they
disagree, change the input and see. Everything runs on the machine of this demo; uploads are deleted after an
hour or two."""

CSS = """
.answer { font-size: 1rem; line-height: 1.5; }
.answer h3 { margin: 1.2rem 0 .3rem; font-size: 1rem; }
.answer .paper { background: #fff; color: #1a1a1a; padding: .6rem .8rem; border-radius: .4rem;
  border: 1px solid #8884; overflow-x: auto; overflow-wrap: anywhere; }
.answer img.maps { display: block; width: 100%; min-width: 26rem; height: auto; margin: 0; }
.answer .predictions { border-collapse: collapse; width: auto; margin: 0 0 .6rem; border: 0; }
.answer .predictions tr { border: 0; background: none; }
.answer .predictions td { padding: .1rem .8rem .1rem 0; border: 0; font-variant-numeric: tabular-nums; }
.answer .bar { display: inline-block; height: .7em; background: #6b7a8f; border-radius: .1em; }
.answer .quiet { opacity: .75; font-size: .85rem; margin: .2rem 0; }
.answer .failure { border-left: 4px solid #c2570c; padding: .3rem .8rem; margin: .6rem 0; }
.answer .legend span { display: inline-block; padding: 0 .5em; border-radius: .2em; color: #fff; margin-right: .3em; }
.answer a.download { text-decoration: underline; padding: 0; }
"""


def build_page(shelf: ModelShelf) -> gr.Blocks:
    """The whole page.

    Args:
        shelf: The models.

    Returns:
        Gradio's object, not launched.
    """
    page = gr.Blocks(title="attrib_plugin", analytics_enabled=False, delete_cache=(600, 3600), fill_width=True)
    with page:
        gr.Markdown(_INTRO)
        with gr.Tabs():
            for modality, title in (("text", "Text"), ("image", "Image")):
                if names := shelf.names(modality):  # type: ignore[arg-type]  # the two literals
                    with gr.Tab(title, id=modality):
                        _Tab(shelf, modality, names)  # type: ignore[arg-type]  # the same
    # Two users are served at the same time; others wait in the queue.
    page.queue(default_concurrency_limit=2, max_size=32, api_open=False)
    return page


class _Tab:
    """One tab: its controls, and what they do."""

    def __init__(self, shelf: ModelShelf, modality: Modality, names: list[str]) -> None:
        self.shelf, self.modality = shelf, modality
        self.prefix = modality
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                self._inputs(names)
            with gr.Column(scale=2, min_width=320):
                self._outputs()
        self._events()

    def _inputs(self, names: list[str]) -> None:
        first = names[0]
        self.model = gr.Dropdown(names, value=first, label="Model", elem_id=f"{self.prefix}-model")
        if self.modality == "text":
            self.given: Any = gr.Textbox(
                label="Text", lines=3, max_lines=8, max_length=MAX_CHARACTERS, elem_id="text-given",
                placeholder="Type a text",
            )  # fmt: skip
        else:
            self.given = _picture(label=f"Image (up to {MAX_MEGABYTES} MB)", height=260, elem_id="image-given")
        self.explain = gr.Button("Explain", variant="primary", elem_id=f"{self.prefix}-explain")
        self._examples(names)
        choices = self._classes(first)
        with gr.Row():
            self.target = gr.Dropdown(
                [("predicted", _NONE), *choices], value=_NONE, label="Class", elem_id=f"{self.prefix}-target"
            )
            self.against = gr.Dropdown(
                [("none", _NONE), *choices], value=_NONE, label="Opposing class", elem_id=f"{self.prefix}-against"
            )
        self.methods = gr.CheckboxGroup(
            list(method_choices()), value=_DEFAULT[self.modality], label="Methods", elem_id=f"{self.prefix}-methods"
        )
        with gr.Accordion("Options of the methods", open=False):
            self._options(self.shelf.n_layers(first) or _FULL_LAYERS)

    def _examples(self, names: list[str]) -> None:
        most = {"text": 6, "image": 4}[self.modality]
        self.examples = [(one, name) for name in names for one in self.shelf.examples(name)[:most]]
        if self.modality == "image":
            # Served from where they are: copies would be deleted with the uploads.
            gr.set_static_paths([path for path, _ in self.examples])
        kind = gr.Textbox(render=False) if self.modality == "text" else _picture(label="Example", render=False)
        self.gallery = gr.Dataset(
            components=[kind], samples=[[given] for given, _ in self.examples], type="index", layout="gallery",
            label="Examples", samples_per_page=16, visible=bool(self.examples), elem_id=f"{self.prefix}-examples",
        )  # fmt: skip

    def _options(self, n_layers: int) -> None:
        start = self._defaults()
        self.options: dict[str, Any] = {
            "sign": gr.Radio(["positive", "negative", "signed"], value="signed", label="Sign"),
            "start_layer": gr.Slider(0, n_layers - 1, value=0, step=1, label="First layer (from 0)"),
            "end_layer": gr.Slider(1, n_layers, value=n_layers, step=1, label="Follow so many layers"),
            "head_fusion": gr.Radio(["mean", "max", "min"], value="mean", label="Heads are fused by their"),
            "residual": gr.Slider(0, 1, value=0.5, step=0.05, label="Weight of the residual path"),
            "discard_ratio": gr.Slider(0, 0.95, value=0, step=0.05, label="Share of smallest attention discarded"),
        }
        for name, control in self.options.items():
            control.elem_id, control.info, control.visible = f"{self.prefix}-{name}", *start[name]

    def _defaults(self) -> dict[str, tuple[str, bool]]:
        chosen = _DEFAULT[self.modality]
        return {name: _used(chosen, name) for name in OPTIONS}

    def _outputs(self) -> None:
        self.shown = gr.HTML(
            '<div class="answer"><p class="quiet">The maps appear here.</p></div>', elem_id=f"{self.prefix}-answer"
        )
        with gr.Row(equal_height=True):
            self.kind = gr.Radio(
                _VIEWS[self.modality], value=_VIEWS[self.modality][0][1], label="Attention view", scale=3,
                elem_id=f"{self.prefix}-kind",
            )  # fmt: skip
            self.look = gr.Button("Look at the attention", scale=1, min_width=160, elem_id=f"{self.prefix}-look")
        self.frame = gr.HTML(elem_id=f"{self.prefix}-frame")

    def _events(self) -> None:
        quiet: dict[str, Any] = {"api_visibility": "private"}
        controls = [self.options[name] for name in OPTIONS]
        self.methods.change(self._show_options, self.methods, controls, queue=False, show_progress="hidden", **quiet)
        changed = [self.target, self.against, self.options["start_layer"], self.options["end_layer"]]
        self.gallery.click(
            lambda index: self.examples[index], self.gallery, [self.given, self.model], show_progress="hidden", **quiet
        )
        self.model.change(_said(self._model_changed), self.model, changed, show_progress="hidden", **quiet)
        asked = [self.model, self.given, self.methods, self.target, self.against, *controls]
        self.explain.click(_said(self._explain), asked, self.shown, scroll_to_output=True, **quiet)
        self.look.click(_said(self._look), [self.model, self.given, self.kind], self.frame, **quiet)

    # What happens when a user does something.

    def _show_options(self, chosen: Sequence[str]) -> list[Any]:
        states = [_used(chosen, name) for name in OPTIONS]
        return [gr.update(info=info, visible=is_used) for info, is_used in states]

    def _model_changed(self, name: str) -> list[Any]:
        choices, n_layers = self._classes(name), self.shelf.n_layers(name) or _FULL_LAYERS
        return [
            gr.update(choices=[("predicted", _NONE), *choices], value=_NONE),
            gr.update(choices=[("none", _NONE), *choices], value=_NONE),
            gr.update(maximum=n_layers - 1, value=0),
            gr.update(maximum=n_layers, value=n_layers),
        ]

    def _explain(self, model: str, given: Any, chosen: Sequence[str], target: int, against: int, *values: Any) -> str:
        named = dict(zip(OPTIONS, values, strict=True))
        n_layers = self.shelf.n_layers(model)
        if named["end_layer"] in (n_layers, None) or n_layers is None:
            named["end_layer"] = None
        request = Request(
            bundle=self.shelf.get(model),
            given=self._read(given),
            methods=chosen,
            target=None if target == _NONE else target,
            against=None if against == _NONE else against,
            values=named,
        )
        return answer(request).html

    def _look(self, model: str, given: Any, kind: str) -> str:
        return attention_html(self.shelf.get(model), self._read(given), kind)

    def _read(self, given: Any) -> Any:
        return check_text(given) if self.modality == "text" else read_picture(given)

    def _classes(self, name: str) -> list[tuple[str, int]]:
        return [(label, index) for index, label in enumerate(self.shelf.get(name).labels)]


def _picture(**options: Any) -> gr.Image:
    """An upload that is handed on as the file it is; :func:`read_picture` checks and decodes it."""
    picture = gr.Image(
        image_mode=None, type="filepath", format="png", sources=["upload", "clipboard"], buttons=[], **options
    )
    # Gradio would decode it before its size is known. A subclass would make Gradio write a file beside this one.
    picture.preprocess = lambda payload: None if payload is None else payload.path
    return picture


def _used(chosen: Sequence[str], control: str) -> tuple[str, bool]:
    """What to say below a control, and whether to show it."""
    found = users(chosen, control)
    return f"for {', '.join(found)}" if found else "no chosen method takes this", bool(found)


def _said(handler: Callable[..., Any]) -> Callable[..., Any]:
    """What goes wrong as a message in the page: in full if it was foreseen, else without details."""

    @wraps(handler)
    def handled(*arguments: Any) -> Any:
        try:
            return handler(*arguments)
        except (AttributionError, ValueError) as error:
            raise gr.Error(escape(str(error)), print_exception=False, duration=None) from error
        except Exception as error:
            logging.getLogger(__name__).exception("The demo could not answer.")
            raise gr.Error(
                f"Something unexpected happened ({type(error).__name__}); the terminal of the demo shows where.",
                print_exception=False,
                duration=None,
            ) from error

    return handled

"""``attrib-plugin app``: the web demo."""

from __future__ import annotations

from typing import Annotated

import typer

from attrib_plugin.app.arguments import complete_model
from attrib_plugin.app.terminal import progress, say

_Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="A further model, as for 'explain'; put text= or image= in front to say what it reads. May be repeated.",
        autocompletion=complete_model,
    ),
]


def web_app(
    model: _Models = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 127.0.0.1 is this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; the next free one if it is taken.")] = 7860,
    browser: Annotated[bool, typer.Option("--browser", help="Open the page in a browser.")] = False,
) -> None:
    """Open the web demo: explain texts and images in a page, on this machine, without a network."""
    with progress("loading libraries and models"):
        from attrib_plugin.app.web.server import serve

        server = serve(model or [], host=host, port=port)
    say(f"The demo is at {server.address} until you press Ctrl-C.")
    if browser:
        typer.launch(server.address)
    server.wait()

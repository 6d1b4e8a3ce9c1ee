"""Start and stop the web demo: this machine alone, no requests to others, no files left behind."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any

from attrib_plugin.app.web.models import ModelShelf
from attrib_plugin.app.web.pictures import MAX_MEGABYTES
from attrib_plugin.errors import InputError, MissingDependencyError

_PORTS_TRIED = 50
# Asked to end, and the terminal closed; Windows has no SIGHUP.
_ENDS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


@dataclass
class Server:
    """A running demo.

    Attributes:
        address: Where it is.
        blocks: Gradio's object.
        folder: Where uploads are kept while it runs.
    """

    address: str
    blocks: Any
    folder: tempfile.TemporaryDirectory[str]

    def wait(self) -> None:
        """Wait for Ctrl-C or an end from outside, and close."""
        stop = Event()
        # What is ignored, as the hang-up is under nohup, stays so.
        ends = [number for number in _ENDS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, lambda *_: stop.set()) for number in ends}
        try:
            while not stop.wait(0.5):
                pass
        except KeyboardInterrupt:
            pass
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self.close()

    def close(self) -> None:
        """Stop serving, and remove what was uploaded."""
        self.blocks.close(verbose=False)
        self.folder.cleanup()


def serve(models: Sequence[str] = (), *, host: str = "127.0.0.1", port: int = 7860) -> Server:
    """Start the demo in threads of its own.

    Args:
        models: Further models, as :class:`~attrib_plugin.app.web.models.ModelShelf` takes them.
        host: Address to listen at.
        port: Port; if it is taken, the next free one. 0 is any free one.

    Returns:
        The running demo.

    Raises:
        MissingDependencyError: If Gradio is not installed.
        InputError: If a model cannot be loaded, or no port is free.
    """
    folder = tempfile.TemporaryDirectory(prefix="attrib-plugin-app-")
    # Gradio reads these when it is imported, and when a page is built.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = folder.name
    try:
        import gradio as gr
    except ImportError as error:
        folder.cleanup()
        raise MissingDependencyError("gradio", "app") from error
    from attrib_plugin.app.web.page import CSS, build_page

    blocks = build_page(ModelShelf(models))
    free = free_port(host, port)
    blocks.launch(
        server_name=host,
        server_port=free,
        theme=_theme(gr),
        css=CSS,
        share=False,
        prevent_thread_lock=True,
        quiet=True,
        footer_links=[],
        run_history=False,
        max_file_size=f"{MAX_MEGABYTES}mb",
        ssr_mode=False,
        pwa=False,
        enable_monitoring=False,
    )
    return Server(_address(host, free), blocks, folder)


def _address(host: str, port: int) -> str:
    """What to type into a browser on this machine."""
    shown = "localhost" if host in ("0.0.0.0", "::") else host
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def _theme(gr: Any) -> Any:
    """Fonts of the reader's machine, and small print that can be read."""
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return theme.set(block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300")


def free_port(host: str, wanted: int) -> int:
    """A port that nobody listens at.

    Args:
        host: Address to listen at.
        wanted: Where to begin; 0 is any.

    Returns:
        The first free port from there on.

    Raises:
        InputError: If none of fifty is free, or there is no such address.
    """
    last = min(wanted + _PORTS_TRIED, 65536)
    problem: OSError | None = None
    for port in range(wanted, last) if wanted else (0,):
        try:
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
                if sys.platform != "win32":
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
                found: int = probe.getsockname()[1]
                return found
        except OSError as error:
            problem = error
    raise InputError(f"No port from {wanted} to {last - 1} of {host!r} is free: {problem}.")

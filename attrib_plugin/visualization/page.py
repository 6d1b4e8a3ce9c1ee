"""One HTML file that carries its script, its style and its data, and asks for nothing else.

A content security policy holds the browser to that: it runs this one script, by its hash, and opens no connection. So
text that should get past the escaping could still do nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from attrib_plugin.visualization.packing import Packed


def write_page(view: str, title: str, facts: Mapping[str, Any], packed: Packed) -> str:
    """Write a page.

    Args:
        view: The view's script among the assets, such as ``"head_view"``.
        title: Title of the page; any text.
        facts: What the script is told, as ``json`` takes it.
        packed: The attention.

    Returns:
        A whole HTML document.
    """
    style = _asset("page.css")
    # In one function, so that the page has no global names.
    script = f'(() => {{\n"use strict";\n{_asset("shell.js")}\n{_asset(f"{view}.js")}\nstart(drawView);\n}})();\n'
    told = {
        **facts,
        "title": title,
        "scales": packed.scales,
        "bits": packed.bits,
        "levels": packed.levels,
    }
    return Template(_asset("page.html")).substitute(
        title=escape(writable(title)),
        style=style,
        style_hash=content_hash(style),
        script=script,
        script_hash=content_hash(script),
        facts=_json(told),
        data=packed.data,
    )


def _asset(name: str) -> str:
    return files("attrib_plugin.visualization").joinpath("assets", name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """JSON that cannot end the script element that holds it."""
    escapes = {ord(character): f"\\u{ord(character):04x}" for character in "<>&"}
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).translate(escapes)


def content_hash(text: str) -> str:
    """What a content security policy calls a script or a style sheet.

    Args:
        text: All of its text.

    Returns:
        Its hash as the policy writes it.
    """
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def writable(text: str) -> str:
    """The text with a question mark for halves of characters, which no file can hold.

    Args:
        text: Any text.

    Returns:
        Text that UTF-8 can write.
    """
    return text.encode("utf-8", "replace").decode("utf-8")

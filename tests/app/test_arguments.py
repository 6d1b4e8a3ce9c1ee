import os
import subprocess
import sys

import pytest

from attrib_plugin.app import arguments


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("AttentionR", ["AttentionRollout"]),
        ("gradientr", ["GradientRollout"]),
        ("AttentionFlow:", ["AttentionFlow:abnar2020"]),
        ("Nobody", []),
    ],
)
def test_methods_and_their_presets_are_completed(typed, offered):
    assert [name for name, _ in arguments.complete_method(typed)] == offered


def test_bundled_models_are_completed():
    assert arguments.complete_model("mul") == ["multi-digits"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("attrib-plugin explain text fine --model sen", "sentiment"),
        ("attrib-plugin explain text fine --method TokenG", "TokenGradCam"),
        ("attrib-plugin explain text fine --method GradientRollout --preset vit_explain_f", "vit_explain_fixed"),
    ],
)
def test_bash_completes_on_the_command_line(words, offered):
    environment = {
        **os.environ,
        "_ATTRIB_PLUGIN_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    command = [sys.executable, "-c", "from attrib_plugin.app.cli import main; main()"]

    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout

    assert shown.split() == [offered]

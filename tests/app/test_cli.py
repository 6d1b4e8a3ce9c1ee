import json
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from safetensors import safe_open
from typer.testing import CliRunner

from attrib_plugin.app import cli
from attrib_plugin.app.terminal import quiet_libraries
from attrib_plugin.app.writing import paths_of
from attrib_plugin.errors import TargetIgnoredWarning
from attrib_plugin.methods import __all__ as methods
from attrib_plugin.runner.explanation import Explanation, Prediction

ROOT = Path(__file__).parents[2]
runner = CliRunner()


def run_main(monkeypatch, capsys, *arguments):
    """The command as a shell runs it: exit code, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["attrib-plugin", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def test_a_text_is_explained_word_by_word(tmp_path):
    output = tmp_path / "out.json"

    result = runner.invoke(
        cli.app, ["explain", "text", "A gentle, moving film.", "--sign", "signed", "-o", str(output)]
    )

    record = json.loads(output.read_text(encoding="utf-8"))
    assert result.exit_code == 0
    assert "predicted: POSITIVE" in result.output
    assert [word["text"] for word in record["words"]] == ["A", "gentle", ",", "moving", "film", "."]
    assert "moving" in result.output


def test_a_class_is_named_or_numbered(tmp_path):
    paths = [tmp_path / "name.json", tmp_path / "index.json"]

    for path, target in zip(paths, ["NEGATIVE", "0"], strict=True):
        runner.invoke(cli.app, ["explain", "text", "A dull film.", "--target", target, "-o", str(path)])

    by_name, by_index = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    assert by_name["target"] == by_index["target"]
    assert by_name["relevance"] == by_index["relevance"]


def test_an_image_is_explained_and_drawn(tmp_path):
    from attrib_plugin.app import bundled

    output = tmp_path / "out.png"
    image = str(bundled.load("multi-digits").examples[0])

    result = runner.invoke(cli.app, ["explain", "image", image, "--model", "multi-digits", "-o", str(output)])

    assert result.exit_code == 0, result.output
    assert output.stat().st_size > 1000


def test_every_method_is_listed():
    result = runner.invoke(cli.app, ["methods"])

    assert all(name in result.output for name in methods)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["explain", "text", " "], "The text is empty"),
        (["explain", "text", "fine", "--method", "Magic"], "no method 'Magic'"),
        (["explain", "text", "fine", "--target", "SOSO"], "no class 'SOSO'"),
        (["explain", "text", "fine", "--model", "digits"], "reads image, not text"),
        (["explain", "text", "fine", "--model", "no/such-model"], "neither a bundled model"),
        (["explain", "image", "nowhere.png"], "no file 'nowhere.png'"),
        (["explain", "text", "fine", "-o", "it.txt"], "found 'it.txt'"),
        (["explain", "text", "fine", "--option", "start_layer=two"], "cannot use the options start_layer='two'"),
        (["explain", "text", "fine", "--option", "start_layer=99"], "one of the 6 layers 0 to 5, not 99"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line_without_traceback(monkeypatch, capsys, arguments, said):
    code, _, error = run_main(monkeypatch, capsys, *arguments)

    assert code == 2
    assert said in " ".join(error.split())
    assert "Traceback" not in error


def test_text_with_markup_is_shown_as_text():
    result = runner.invoke(cli.app, ["explain", "text", "[red]a [bold]good film[/bold]"])

    assert result.exit_code == 0
    assert "[red]a [bold]good film[/bold]" in result.output


def test_the_output_of_a_model_with_one_is_no_percentage():
    only = Prediction(0, "score", -3.25)
    explanation = Explanation("M", {}, only, None, (only,), torch.ones(1), "for", seconds=0.01)

    assert cli.prediction_of(explanation) == "predicted: score -3.25; explained in 10 ms"


def test_json_on_standard_output_is_json_alone():
    result = runner.invoke(cli.app, ["explain", "text", "A dull film.", "Fine.", "--json"])

    assert result.exit_code == 0
    assert [record["text"] for record in json.loads(result.stdout)] == ["A dull film.", "Fine."]
    assert "predicted:" in result.stderr


def test_several_inputs_are_written_as_one_file_or_as_one_each(tmp_path):
    names = ["all.html", "all.json", "all.npz", "all.safetensors", "each/"]
    outputs = [word for name in names for word in ("-o", f"{tmp_path}/{name}")]

    result = runner.invoke(cli.app, ["explain", "text", "A dull film.", "<b>Fine</b>.", *outputs, "--format", "json"])

    assert result.exit_code == 0, result.output
    records = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    page = (tmp_path / "all.html").read_text(encoding="utf-8")
    with safe_open(tmp_path / "all.safetensors", "pt") as stored, np.load(tmp_path / "all.npz") as arrays:
        for number, record in enumerate(records):
            expected = np.array(record["relevance"], dtype=np.float32)
            np.testing.assert_array_equal(arrays[f"relevance_{number}"], expected)
            np.testing.assert_array_equal(stored.get_tensor(f"relevance_{number}").numpy(), expected)
        assert json.loads(stored.metadata()["record"]) == records
    assert "&lt;" in page
    assert "<b>" not in page
    assert sorted(path.name for path in (tmp_path / "each").iterdir()) == ["text-1.json", "text-2.json"]


def test_a_preset_and_a_range_of_layers_reach_the_method(tmp_path):
    output = tmp_path / "out.json"
    options = ["-m", "AttentionRollout", "--preset", "abnar2020", "--layers", "1:4", "--option", "residual=0.25"]

    result = runner.invoke(cli.app, ["explain", "text", "A dull film.", *options, "-o", str(output)])

    assert result.exit_code == 0, result.output
    settings = json.loads(output.read_text(encoding="utf-8"))["settings"]
    assert settings == {"preset": "abnar2020", "residual": 0.25, "start_layer": 1, "end_layer": 4}


def test_presets_of_a_method_are_listed():
    result = runner.invoke(cli.app, ["presets", "GradientRollout"])

    assert result.exit_code == 0
    assert "hila-chefer" in result.output
    assert "abnar2020" not in result.output


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RuntimeError("broken"), 1, "RuntimeError: broken\nThis was not expected"),
        (ValueError("wrong"), 2, "attrib-plugin: wrong"),
        (PermissionError(13, "Permission denied", "out.html"), 2, "attrib-plugin: 'out.html': Permission denied."),
        (OSError("no file"), 1, "OSError: no file\nThis was not expected"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_codes_tell_what_happened(monkeypatch, capsys, error, code, said):
    def fail():
        raise error

    monkeypatch.setattr("attrib_plugin.app.catalogue.method_entries", fail)

    found, _, shown = run_main(monkeypatch, capsys, "methods")

    assert found == code
    assert said in shown
    assert "Traceback" not in shown


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setattr("attrib_plugin.app.catalogue.method_entries", lambda: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["attrib-plugin", "--debug", "methods"])

    with pytest.raises(ZeroDivisionError):
        cli.main()


@pytest.mark.parametrize(
    ("output", "said"), [("no/such/folder/out.json", "There is no folder"), ("it.png", "holds one picture")]
)
def test_outputs_are_checked_before_a_model_is_loaded(monkeypatch, capsys, output, said):
    monkeypatch.setattr("attrib_plugin.app.loading.load_model", lambda *given, **options: pytest.fail("loaded"))

    code, _, error = run_main(monkeypatch, capsys, "explain", "text", "fine", "good", "-o", output)

    assert code == 2
    assert said in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", "image", "./cat.png", "-o", "cat.png"],
        ["explain", "image", ".", "-o", "./", "--format", "png"],
        ["compare", "image", "./cat.png", "-o", "cat.png"],
    ],
)
def test_what_is_explained_is_never_overwritten(monkeypatch, capsys, tmp_path, arguments):
    monkeypatch.setattr("attrib_plugin.app.loading.load_model", lambda *given, **options: pytest.fail("loaded"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat.png").write_bytes(b"a picture")

    code, _, error = run_main(monkeypatch, capsys, *arguments)

    assert code == 2
    assert "'cat.png' is what is to be explained" in error
    assert (tmp_path / "cat.png").read_bytes() == b"a picture"


def test_names_that_look_alike_to_a_file_system_get_a_file_each():
    paths = paths_of("maps/", ["a b", "a_b", "A:B", "a_b-2"], ".png")

    assert [path.name for path in paths] == ["a_b.png", "a_b-2.png", "A_B-3.png", "a_b-2-2.png"]


def test_warnings_of_the_package_are_notes_and_those_of_libraries_are_not_shown(capsys):
    with quiet_libraries():
        warnings.warn("ours", TargetIgnoredWarning, stacklevel=1)
        warnings.warn("theirs", UserWarning, stacklevel=1)

    assert capsys.readouterr().err == "note: ours\n"


# ------------------------------------------------------------------------------------- the page of the documentation


def commands(group, path="attrib-plugin"):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")
        yield f"{path} {name}", command


def long_options(command):
    return {word for parameter in command.params for word in parameter.opts + parameter.secondary_opts if "--" in word}


def test_the_reference_names_every_command_and_option_and_no_other():
    page = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    group = typer.main.get_command(cli.app)
    found = {path: command for path, command in commands(group)}
    options = {word for command in [group, *found.values()] for word in long_options(command)}

    assert not [path for path, command in found.items() if not hasattr(command, "commands") and path not in page]
    assert options <= set(re.findall(r"--[a-z][a-z-]+", page))
    assert set(re.findall(r"--[a-z][a-z-]+", page)) <= options | {"--help"}


def test_every_command_has_an_example_in_its_help():
    found = {path: command for path, command in commands(typer.main.get_command(cli.app))}

    assert not [
        path for path, one in found.items() if not hasattr(one, "commands") and "xample" not in (one.epilog or "")
    ]

import json
import sys

import pytest
from typer.testing import CliRunner

from attrib_plugin.app import cli
from attrib_plugin.methods import __all__ as methods

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

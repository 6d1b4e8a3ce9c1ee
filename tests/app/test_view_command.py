import sys

import pytest
from typer.testing import CliRunner

from attrib_plugin.app import bundled, cli

runner = CliRunner()


@pytest.mark.parametrize("kind", ["head", "model", "flow"])
def test_a_text_is_written_as_a_page(tmp_path, kind):
    output = tmp_path / "out.html"

    result = runner.invoke(cli.app, ["view", "text", "A gentle, moving film.", "--kind", kind, "-o", str(output)])

    assert result.exit_code == 0, result.output
    assert "written:" in result.output
    assert '"gentle"' in output.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["image", "head"])
def test_an_image_is_written_as_a_page(tmp_path, kind):
    output = tmp_path / "out.html"
    image = str(bundled.load("multi-digits").examples[0])

    arguments = ["view", "image", image, "--model", "multi-digits", "--kind", kind, "-o", str(output)]
    result = runner.invoke(cli.app, arguments)

    assert result.exit_code == 0, result.output
    assert ("data:image/png" in output.read_text(encoding="utf-8")) == (kind == "image")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["view", "text", "fine", "--kind", "tree"], "not 'tree'"),
        (["view", "text", "fine", "--kind", "image"], "needs an image"),
        (["view", "text", "fine", "-o", "view.pdf"], "ends in .html, found 'view.pdf'"),
        (["view", "image", "nowhere.png"], "no file 'nowhere.png'"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(monkeypatch, capsys, tmp_path, arguments, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["attrib-plugin", *arguments])

    with pytest.raises(SystemExit) as stopped:
        cli.main()

    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert said in " ".join(error.split())
    assert list(tmp_path.iterdir()) == []

import json

import pytest
from typer.testing import CliRunner

from attrib_plugin.app import bundled, cli

runner = CliRunner()


def test_methods_are_compared_on_a_text(tmp_path):
    outputs = [tmp_path / f"out.{ending}" for ending in ("json", "csv", "html", "png")]
    options = [option for path in outputs for option in ("-o", str(path))]

    result = runner.invoke(
        cli.app,
        ["compare", "text", "A dull film.", "-m", "GradientRollout", "-m", "LayerGradCam", "--no-memory", *options],
    )

    assert result.exit_code == 0, result.output
    assert "LayerGradCam failed: InputError" in result.output
    record = json.loads(outputs[0].read_text(encoding="utf-8"))
    assert [one["method"] for one in record["methods"]] == ["GradientRollout", "LayerGradCam"]
    assert all(path.stat().st_size > 100 for path in outputs)
    assert "attrib-plugin " in outputs[2].read_text(encoding="utf-8")


def test_methods_are_compared_on_an_image(tmp_path):
    image = str(bundled.load("multi-digits").examples[0])
    output = tmp_path / "out.png"
    arguments = ["compare", "image", image, "--model", "multi-digits", "-m", "TokenGradCam", "-m", "Saliency"]

    result = runner.invoke(cli.app, [*arguments, "--target", "7", "--baseline", "0.5", "-o", str(output)])

    assert result.exit_code == 0, result.output
    assert "explained: 7" in result.output
    assert output.stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["text", "fine", "-m", "Magic"], "no method 'Magic'"),
        (["text", "fine", "-o", "it.txt"], "found 'it.txt'"),
        (["text", "fine", "--baseline", "nothing"], "found 'nothing'"),
        (["image", "nowhere.png"], "no file 'nowhere.png'"),
    ],
)
def test_what_goes_wrong_is_said(arguments, said):
    result = runner.invoke(cli.app, ["compare", *arguments])

    assert result.exit_code != 0
    assert said in str(result.exception)

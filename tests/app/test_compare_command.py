import json
from unittest.mock import Mock

import pytest
import torch
from typer.testing import CliRunner

from attrib_plugin.app import bundled, cli
from attrib_plugin.runner.compare import compare as compare_for_real

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


def test_json_on_standard_output_is_json_alone(monkeypatch):
    monkeypatch.setattr("attrib_plugin.runner.compare.compare", compare := Mock(side_effect=compare_for_real))
    placed = ["--dtype", "float64", "--readout", "2", "--no-memory"]

    result = runner.invoke(cli.app, ["compare", "text", "A dull film.", "-m", "GradientRollout", "--json", *placed])

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["texts"] == ["A dull film."]
    assert "predicted: NEGATIVE" in result.stderr
    assert next(compare.call_args.args[0].parameters()).dtype == torch.float64
    assert compare.call_args.kwargs["readout"] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["text", "fine", "-m", "Magic"], "no method 'Magic'"),
        (["text", "fine", "-o", "it.txt"], "found 'it.txt'"),
        (["text", "fine", "--baseline", "nothing"], "found 'nothing'"),
        (["image", "nowhere.png"], "no file 'nowhere.png'"),
        (["text", "fine", "--device", "abacus"], "cannot be put on the device 'abacus'"),
    ],
)
def test_what_goes_wrong_is_said(arguments, said):
    result = runner.invoke(cli.app, ["compare", *arguments])

    assert result.exit_code != 0
    assert said in str(result.exception)

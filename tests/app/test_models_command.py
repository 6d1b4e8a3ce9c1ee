import pytest
from typer.testing import CliRunner

from attrib_plugin.app import bundled, cli
from attrib_plugin.families.find import FAMILIES

runner = CliRunner()


def test_bundled_models_and_every_family_are_listed():
    result = runner.invoke(cli.app, ["models"])

    assert result.exit_code == 0, result.output
    assert result.output.count("ready") >= len(bundled.names())
    assert all(family.name in result.output for family in FAMILIES)


@pytest.mark.parametrize("name", ["sentiment", "digits", "test_vit"])
def test_a_model_that_works_is_said_to_work(name):
    result = runner.invoke(cli.app, ["models", "check", name])

    assert result.exit_code == 0, result.output
    assert ": works (family " in result.output


def test_a_model_that_is_refused_comes_with_the_reason():
    result = runner.invoke(cli.app, ["models", "check", "timm:test_convnext"])

    assert result.exit_code == 2
    assert "refused. No attention call was seen" in result.output


def test_a_bundled_model_that_reads_something_else_is_refused():
    result = runner.invoke(cli.app, ["models", "check", "digits", "--modality", "text"])

    assert result.exit_code != 0
    assert "reads image, not text" in str(result.exception)


def test_a_configuration_without_weights_is_enough(tmp_path):
    from transformers import ViTConfig

    ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8
    ).save_pretrained(tmp_path)

    result = runner.invoke(cli.app, ["models", "check", str(tmp_path), "--modality", "image"])

    assert "works (family hf_vit; a map of 4x4 patches)" in result.output

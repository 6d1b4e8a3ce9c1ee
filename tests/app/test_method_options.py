import pytest

from attrib_plugin import methods
from attrib_plugin.app.method_options import choose_method, options_of, parse_grid, parse_option
from attrib_plugin.errors import InputError


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("start_layer=2", 2),
        ("residual=0.25", 0.25),
        ("sign=signed", "signed"),
        ("row_normalize=true", True),
        ("head=None", None),
        ("grid=(2, 3)", (2, 3)),
        ("special='zero_first'", "zero_first"),
        ("sign=__import__('os').getcwd()", "__import__('os').getcwd()"),
        ("sign=a=b", "a=b"),
    ],
)
def test_values_are_read_and_never_run(typed, value):
    assert parse_option(typed) == (typed.partition("=")[0], value)


@pytest.mark.parametrize("typed", ["sign", "=3", "two words=3"])
def test_what_is_no_option_is_refused(typed):
    with pytest.raises(InputError, match="Expected NAME=VALUE"):
        parse_option(typed)


@pytest.mark.parametrize("typed", ["14x14", "14,14"])
def test_a_grid_is_rows_and_columns(typed):
    assert parse_grid(typed) == (14, 14)


@pytest.mark.parametrize("typed", ["14", "0x3", "ax3", "3x4x5"])
def test_no_grid_is_refused(typed):
    with pytest.raises(InputError, match="such as 14x14"):
        parse_grid(typed)


@pytest.mark.parametrize(
    ("name", "layers", "options", "end"),
    [
        ("GradientRollout", "2:5", {"start_layer": 2}, 5),
        ("GradientRollout", "2:", {"start_layer": 2}, None),
        ("GradientRollout", ":5", {}, 5),
        ("AttentionFlow", "0:5", {}, 5),
        ("RawAttention", "3", {"layer": 3}, None),
        ("RawAttention", "-1", {"layer": -1}, None),
    ],
)
def test_layers_are_a_range_or_one(name, layers, options, end):
    chosen = choose_method(name, layers=layers)

    assert (chosen.options, chosen.end_layer) == (options, end)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("GradientRollout", {"layers": "3"}, "give a range START:END"),
        ("AttentionFlow", {"layers": "2:5"}, "starts at the first layer"),
        ("GradientRollout", {"layers": "5:5"}, "at least one layer"),
        ("GradientRollout", {"layers": "a:b"}, "Expected a layer such as 3"),
        ("AttentionRollout", {"sign": "signed"}, "AttentionRollout has no option 'sign'. Its options: discard_ratio"),
        ("GradientRollout", {"typed": ["forward_func=3"]}, "no option 'forward_func'"),
        ("Nothing", {}, "no method 'Nothing'"),
    ],
)
def test_what_a_method_does_not_take_is_refused(name, options, said):
    with pytest.raises(InputError, match=said):
        choose_method(name, **options)


def test_a_preset_stands_after_a_colon_or_by_itself():
    assert choose_method("AttentionRollout:vit_explain").preset == "vit_explain"
    assert choose_method("AttentionRollout", preset="abnar2020", readout="3").arguments == {
        "method": methods.AttentionRollout,
        "preset": "abnar2020",
        "end_layer": None,
        "readout": 3,
    }


def test_options_of_the_base_are_options_of_every_method():
    assert {"readout", "grid", "prefix_tokens", "special"} <= options_of(methods.LayerwiseRelevance).keys()

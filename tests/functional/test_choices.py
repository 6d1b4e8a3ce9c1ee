"""Options that take one of a few values."""

import pytest

from attrib_plugin.functional.choices import check_choice


def test_a_known_value_is_taken():
    check_choice("sign", "negative", ("positive", "negative"))


@pytest.mark.parametrize("value", ["up", None, 2])
def test_an_unknown_value_is_refused_with_the_option_and_its_values(value):
    with pytest.raises(ValueError, match=f"normalize must be True, False or 'columns', not {value!r}"):
        check_choice("normalize", value, (True, False, "columns"))

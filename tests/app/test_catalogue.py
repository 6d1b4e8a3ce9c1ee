import subprocess
import sys

import pytest

from attrib_plugin import methods
from attrib_plugin.app import bundled, catalogue


def test_what_is_read_from_the_source_is_what_the_classes_are():
    found = catalogue.method_entries()

    assert [entry.name for entry in found] == methods.__all__
    for entry in found:
        method = getattr(methods, entry.name)
        assert entry.presets == tuple(method.presets)
        assert entry.is_class_specific == method.needs_gradients
        assert entry.summary == method.__doc__.strip().splitlines()[0]


def test_every_bundled_model_is_named():
    assert set(catalogue.model_names()) == {*bundled.names(), "photo", "russian"}


@pytest.mark.parametrize("name", bundled.names())
def test_examples_and_modality_are_those_of_the_model(name):
    loaded = bundled.load(name)

    assert catalogue.model_examples(name) == tuple(map(str, loaded.examples))
    assert catalogue.modality_of(name) == loaded.modality


def test_help_methods_and_completion_load_no_torch():
    code = (
        "import sys\nfrom attrib_plugin.app import arguments, catalogue, cli\n"
        "list(arguments.complete_method('Att')); arguments.complete_model('s')\n"
        "print('torch' in sys.modules, 'captum' in sys.modules, 'numpy' in sys.modules)"
    )

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert shown.split() == ["False"] * 3

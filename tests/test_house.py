"""The rules of the house that a machine can check."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import attrib_plugin

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "attrib_plugin"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE = 400
NO_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "core"}
DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def sort_key(name):
    """Constants, then classes, then functions, as ruff sorts ``__all__``."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def exported_names(tree):
    """The names in ``__all__`` of a module, or None if it has none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets):
            return ast.literal_eval(node.value)
    return None


def is_unwanted(node):
    """Whether a node prints or asserts."""
    called = node.func if isinstance(node, ast.Call) else None
    return isinstance(node, ast.Assert) or (isinstance(called, ast.Name) and called.id == "print")


def undocumented(body, prefix=""):
    """Public classes, functions and methods without a docstring."""
    for node in body:
        if isinstance(node, DEFINITIONS) and not node.name.startswith("_"):
            if ast.get_docstring(node) is None:
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from undocumented(node.body, f"{prefix}{node.name}.")


# ------------------------------------------------------------------------------------- who may know whom


def test_imports_follow_the_floors():
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"

    shown = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"], capture_output=True, text=True, check=False, cwd=ROOT
    )

    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert " 0 broken" in shown.stdout


def test_importing_the_package_alone_does_not_load_torch():
    code = "import sys, attrib_plugin; print(*sorted({'torch', 'captum', 'numpy'} & set(sys.modules)))"

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout

    assert shown.split() == []


def test_rooms_of_the_package_are_attributes_without_an_import_of_their_own():
    code = "import attrib_plugin; print(attrib_plugin.methods.RawAttention.__name__, 'explain' in dir(attrib_plugin))"

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout

    assert shown.split() == ["RawAttention", "True"]


def test_a_method_loads_nothing_that_captum_does_not_load():
    code = (
        "import sys, captum.attr; before = set(sys.modules)\n"
        "import attrib_plugin; attrib_plugin.GradientRollout; print(*sorted(set(sys.modules) - before))\n"
        "print(*{'transformers', 'timm', 'torchvision', 'sentencepiece'} & set(sys.modules))"
    )

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout

    loaded, model_libraries = shown.splitlines()
    own = {"attrib_plugin", *sys.stdlib_module_names}
    assert "attrib_plugin.capture.session" in loaded.split()
    assert not {name for name in loaded.split() if name.partition(".")[0] not in own}
    assert not model_libraries


# ------------------------------------------------------------------------------------- files


def test_no_file_is_too_long():
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}

    assert not {name: length for name, length in lengths.items() if length > LONGEST_FILE}


def test_every_file_is_named_for_what_it_holds():
    words = {name_of(path): set(re.split(r"[/_.]", name_of(path))) for path in FILES}

    assert len(FILES) > 30
    assert not [name for name, parts in words.items() if parts & NO_NAMES]


def test_no_file_prints_or_asserts():
    found = [f"{name_of(path)}:{node.lineno}" for path in FILES for node in ast.walk(parsed(path)) if is_unwanted(node)]

    assert not found


# ------------------------------------------------------------------------------------- public names


def test_every_file_and_its_public_names_are_documented():
    files = {name_of(path): parsed(path) for path in FILES}

    assert not [name for name, tree in files.items() if tree.body and ast.get_docstring(tree) is None]
    assert not [f"{name}: {lacking}" for name, tree in files.items() for lacking in undocumented(tree.body)]


def test_exported_names_are_sorted_and_named_once():
    exported = {name_of(path): exported_names(parsed(path)) for path in FILES}

    assert exported["__init__.py"] == attrib_plugin.__all__
    assert not [name for name, names in exported.items() if names and names != sorted(set(names), key=sort_key)]


@pytest.mark.parametrize("name", attrib_plugin.__all__)
def test_every_exported_name_of_the_package_exists_and_is_documented(name):
    assert (getattr(attrib_plugin, name).__doc__ or "").strip()


def test_name_that_the_package_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'attrib_plugin' has no attribute 'Nonsense'"):
        _ = attrib_plugin.Nonsense

import inspect
import socket
import sys

import pytest
from PIL import Image

from attrib_plugin import methods
from attrib_plugin.app.web.controls import OPTIONS, method_choices, options_for, takes, users
from attrib_plugin.app.web.models import ModelShelf
from attrib_plugin.app.web.pictures import MAX_CHARACTERS, check_text, read_picture
from attrib_plugin.app.web.server import free_port, serve
from attrib_plugin.errors import InputError, MissingDependencyError


@pytest.mark.parametrize("method", methods.__all__)
def test_a_control_that_a_method_takes_is_an_argument_of_it(method):
    cls = getattr(methods, method)
    taken = [name for name in OPTIONS if takes(method, name) and name != "end_layer"]

    assert all(name in inspect.signature(cls.__init__).parameters for name in taken)
    assert takes(method, "target") == cls.needs_gradients


def test_controls_name_the_methods_that_use_them():
    chosen = ["GradientRollout", "AttentionRollout", "IntegratedGradients", "RawAttention"]

    assert users(chosen, "sign") == ["GradientRollout"]
    assert users(chosen, "residual") == ["AttentionRollout"]
    assert users(chosen, "end_layer") == ["GradientRollout", "AttentionRollout"]
    assert users(["IntegratedGradients"], "against") == []
    assert "IntegratedGradients" in method_choices()


def test_only_what_a_method_takes_reaches_it():
    values = {"sign": "signed", "start_layer": 2, "end_layer": 4, "head_fusion": "min", "residual": 0.1}

    assert options_for("AttentionRollout", values) == {
        "start_layer": 2, "end_layer": 4, "head_fusion": "min", "residual": 0.1,
    }  # fmt: skip
    assert options_for("TokenGradCam", values) == {"sign": "signed"}
    assert options_for("IntegratedGradients", values) == {}


def test_the_shelf_knows_what_models_read_and_loads_each_once():
    shelf = ModelShelf(["digits"])

    assert shelf.names("image")[0] == "digits"
    assert "sentiment" in shelf.names("text")
    assert shelf.get("digits") is shelf.get("digits")
    assert shelf.n_layers("sentiment") == 6
    assert shelf.n_layers("digits") == len(shelf.get("digits").model.blocks)


@pytest.mark.parametrize(
    ("named", "said"), [("text=no/such", "neither a bundled model"), ("sound=it", "text=NAME or image=NAME")]
)
def test_a_model_that_is_not_there_is_said(named, said):
    with pytest.raises(InputError, match=said):
        ModelShelf([named])


@pytest.mark.parametrize("text", [None, "", "  \n", "x" * (MAX_CHARACTERS + 1)])
def test_texts_that_are_empty_or_too_long_are_refused(text):
    with pytest.raises(InputError, match=r"Type a text|takes 2000 at most"):
        check_text(text)


def test_a_picture_is_turned_as_its_camera_says_and_stands_on_white(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (8, 4), "red").save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGBA", (8, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("L", (8, 4), 7).save(tmp_path / "grey.png")

    assert read_picture(str(tmp_path / "turned.jpg")).size == (4, 8)
    assert read_picture(str(tmp_path / "clear.png")).getpixel((0, 0)) == (255, 255, 255)
    assert read_picture(str(tmp_path / "grey.png")).mode == "L"


def test_pictures_beyond_the_limits_and_no_pictures_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("attrib_plugin.app.web.pictures.MAX_PIXELS", 100)
    Image.new("L", (30, 20)).save(tmp_path / "large.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "drawing.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n")
    monkeypatch.setattr("attrib_plugin.app.web.pictures.MAX_MEGABYTES", 0.01)
    (tmp_path / "heavy.png").write_bytes(b"x" * 20_000)

    for name, said in {
        None: "Upload an image",
        "large.png": "30 x 20 pixels",
        "text.png": "no image that can be read",
        "drawing.eps": "no image that can be read",
        "heavy.png": "MB at most",
    }.items():
        with pytest.raises(InputError, match=said):
            read_picture(name and str(tmp_path / name))


def test_a_port_that_is_taken_is_passed_over():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        assert port < free_port("127.0.0.1", port) <= port + 50
    with pytest.raises(InputError, match="is free"):
        free_port("256.0.0.1", 7860)


def test_without_gradio_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)

    with pytest.raises(MissingDependencyError, match=r"attrib-plugin\[app\]"):
        serve()

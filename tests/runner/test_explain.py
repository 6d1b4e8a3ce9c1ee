import json

import numpy as np
import pytest
import torch
from tiny_models import tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from attrib_plugin import AttentionRollout, Explanation, GradientRollout, explain
from attrib_plugin.errors import InputError, TargetError

WORDS = ["a", "good", "film", "un", "##watch", "##able", "<b>", "!"]


@pytest.fixture(scope="module")
def tokenizer():
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, **{word: 5 + i for i, word in enumerate(WORDS)}}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )


@pytest.fixture
def model():
    return tiny_model("bert", dtype=torch.float32)


def test_a_text_is_explained_by_the_methods_own_values(model, tokenizer):
    text = "a unwatchable film !"

    explanation = explain(model, text, tokenizer=tokenizer, target=2, sign="signed")

    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    expected = GradientRollout(model, sign="signed").attribute(ids, target=2)[0]
    torch.testing.assert_close(explanation.relevance, expected, rtol=1e-4, atol=1e-7)
    assert [word.text for word in explanation.words] == ["a", "unwatchable", "film", "!"]
    torch.testing.assert_close(explanation.word_relevance[1], expected[2:5].sum(), rtol=1e-4, atol=1e-7)
    assert list(explanation.special_relevance) == ["[CLS] at 0", "[SEP] at 7"]
    assert explanation.tone == "signed"


def test_the_predicted_class_is_explained_by_default(model, tokenizer):
    explanation = explain(model, "a good film", tokenizer=tokenizer)

    logits = model(tokenizer("a good film", return_tensors="pt")["input_ids"]).logits[0]
    assert explanation.target.index == int(logits.argmax())
    assert explanation.predictions[0] == explanation.target
    assert sum(one.probability for one in explanation.predictions) == pytest.approx(1.0, abs=1e-5)


def test_classes_can_be_named_and_contrasted(model, tokenizer):
    labels = ["one", "two", "three", "four", "five"]

    explanation = explain(model, "a good film", tokenizer=tokenizer, target="two", against="five", labels=labels)

    assert explanation.title == "Gradient Rollout, evidence for two rather than five"


def test_several_labels_have_probabilities_of_their_own(model, tokenizer):
    explanation = explain(model, "a good film", tokenizer=tokenizer, multilabel=True)

    logits = model(tokenizer("a good film", return_tensors="pt")["input_ids"]).logits[0]
    assert explanation.predictions[0].probability == pytest.approx(logits.sigmoid().max().item(), abs=1e-5)


def test_an_unknown_class_is_refused_with_the_known_ones(model, tokenizer):
    with pytest.raises(TargetError, match=r"no class 'cat'.*0 \(LABEL_0\)"):
        explain(model, "a good film", tokenizer=tokenizer, target="cat")


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_text_is_refused(model, tokenizer, text):
    with pytest.raises(InputError, match="empty"):
        explain(model, text, tokenizer=tokenizer)


def test_a_text_without_a_tokenizer_is_refused(model):
    with pytest.raises(InputError, match="tokenizer=tokenizer"):
        explain(model, "a good film")


def test_a_class_agnostic_method_says_so(model, tokenizer):
    explanation = explain(model, "a good film", tokenizer=tokenizer, method=AttentionRollout, target=1)

    assert explanation.title == "Attention Rollout (the same for every class)"
    assert explanation.tone == "share"


def image(width=52, height=30):
    from PIL import Image

    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


class Transform:
    """Resizes and normalises, as torchvision's Compose says what it did."""

    class Normalize:
        mean, std = (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)

    transforms = (Normalize(),)

    def __call__(self, picture):
        array = np.asarray(picture.convert("RGB").resize((40, 24)), dtype=np.float32) / 255
        return torch.from_numpy((array - self.Normalize.mean) / self.Normalize.std).permute(2, 0, 1).float()


def test_an_image_is_shown_as_the_model_saw_it():
    explanation = explain(tiny_model("timm_vit", dtype=torch.float32), image(), processor=Transform(), target=1)

    seen = np.asarray(image().resize((40, 24)), dtype=np.float32) / 255
    assert explanation.relevance.shape == (3, 5)
    np.testing.assert_allclose(explanation.pixels, seen, atol=1e-5)


def test_an_image_file_and_a_ready_tensor_give_the_same_map(tmp_path):
    model = tiny_model("timm_vit", dtype=torch.float32)
    image().save(tmp_path / "cat.png")

    from_file = explain(model, tmp_path / "cat.png", processor=Transform(), target=1)
    from_tensor = explain(model, Transform()(image()), target=1)

    torch.testing.assert_close(from_file.relevance, from_tensor.relevance)


def test_a_broken_image_file_is_refused(tmp_path):
    (tmp_path / "cat.png").write_text("no picture")

    with pytest.raises(InputError, match=r"'cat\.png' is no image"):
        explain(tiny_model("timm_vit", dtype=torch.float32), tmp_path / "cat.png", processor=Transform())


def test_a_transformers_image_processor_is_taken():
    from transformers import ViTImageProcessor

    processor = ViTImageProcessor(size={"height": 24, "width": 40}, image_mean=[0.5] * 3, image_std=[0.5] * 3)

    explanation = explain(tiny_model("hf_vit", dtype=torch.float32), image(), processor=processor)

    assert explanation.relevance.shape == (3, 5)
    assert 0 <= explanation.pixels.min() < explanation.pixels.max() <= 1


@pytest.mark.parametrize("ending", ["html", "json", "npz", "png", "svg", "pdf"])
@pytest.mark.parametrize("modality", ["text", "image"])
def test_an_explanation_is_saved_in_every_format(tmp_path, model, tokenizer, ending, modality):
    if modality == "text":
        explanation = explain(model, "a <b> film", tokenizer=tokenizer)
    else:
        explanation = explain(tiny_model("timm_vit", dtype=torch.float32), image(), processor=Transform())

    path = explanation.save(tmp_path / f"it.{ending}")

    assert path.stat().st_size > 200


def test_an_unknown_format_is_refused(tmp_path, model, tokenizer):
    with pytest.raises(InputError, match=r"\.html.*found 'it\.txt'"):
        explain(model, "a good film", tokenizer=tokenizer).save(tmp_path / "it.txt")


def test_saved_values_are_the_explanations_values(tmp_path, model, tokenizer):
    explanation = explain(model, "a unwatchable film", tokenizer=tokenizer, sign="signed")

    record = json.loads(explanation.save(tmp_path / "it.json").read_text(encoding="utf-8"))
    arrays = np.load(explanation.save(tmp_path / "it.npz"))

    np.testing.assert_allclose(record["relevance"], explanation.relevance.numpy(), rtol=1e-6)
    np.testing.assert_array_equal(arrays["relevance"], explanation.relevance.numpy())
    assert [word["text"] for word in record["words"]] == ["a", "unwatchable", "film"]
    assert record["settings"] == {"sign": "signed"}


def test_a_notebook_shows_it_escaped(model, tokenizer):
    explanation = explain(model, "a <b> film", tokenizer=tokenizer, labels=["<i>"] + ["x"] * 4, target=0)

    html = explanation._repr_html_()

    assert isinstance(explanation, Explanation)
    assert "&lt;b&gt;" in html
    assert "<i>" not in html.replace("&lt;i&gt;", "")
    assert "<script" not in html
    assert "http" not in html

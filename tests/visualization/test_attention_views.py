import json
import re
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest
import torch

from attrib_plugin.errors import InputError
from attrib_plugin.visualization import (
    attention_flow_view,
    attention_head_view,
    attention_image_view,
    attention_model_view,
    patch_names,
)

SEQUENCE_VIEWS = [attention_head_view, attention_model_view, attention_flow_view]
HOSTILE = ["</script><script>alert(1)</script>", "<!--", "\u2028", "\ud800", "\"&'"]


class Reader(HTMLParser):
    """What a browser's parser makes of a page: tags, and the text of scripts and title."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.texts, self.open = [], [], None

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "title", "style"):
            self.texts.append("")
            self.open = tag

    def handle_endtag(self, tag):
        self.open = None if tag == self.open else self.open

    def handle_data(self, data):
        if self.open:
            self.texts[-1] += data


def read(html):
    reader = Reader()
    reader.feed(html)
    return reader


def facts_of(html):
    return json.loads(re.search(r'class="facts">(.*?)</script>', html, re.DOTALL)[1])


def attention(layers=2, heads=3, queries=5, keys=5):
    return [torch.softmax(torch.randn(heads, queries, keys), -1) for _ in range(layers)]


def names(count=5):
    return [f"token{index}" for index in range(count)]


@pytest.mark.parametrize("write", SEQUENCE_VIEWS)
def test_a_page_names_no_address_and_lets_the_browser_ask_for_none(write):
    page = write(attention(), names())

    assert not re.search(r"https?:|//cdn|@import|\bfetch\(|XMLHttpRequest|\beval\(", page)
    assert "default-src 'none'" in page
    assert {tag for tag, attrs in read(page).tags if "src" in attrs} == set()


@pytest.mark.parametrize("write", SEQUENCE_VIEWS)
def test_hostile_tokens_and_titles_stay_text(write):
    page = write(attention(), HOSTILE, title="</title><script>alert(2)</script>\ud800")

    reader = read(page)
    page.encode("utf-8")
    assert [tag for tag, _ in reader.tags].count("script") == 3
    assert reader.texts[0] == "</title><script>alert(2)</script>?"
    assert facts_of(page)["queries"] == HOSTILE
    assert "alert(" not in re.sub(r'class="facts">.*?</script>|<title>.*?</title>', "", page, flags=re.DOTALL)


def test_the_policy_allows_exactly_the_script_and_the_style_of_the_page():
    import base64
    import hashlib

    page = attention_head_view(attention(), names())

    _, style, facts, data, script = read(page).texts
    policy = next(attrs["content"] for tag, attrs in read(page).tags if attrs.get("http-equiv"))
    hashes = re.findall(r"'sha256-([^']+)'", policy)
    assert hashes == [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style)]
    assert facts.startswith("{")
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", data)


def test_no_asset_could_end_its_own_element():
    assets = [file for file in files("attrib_plugin.visualization").joinpath("assets").iterdir()]

    scripts = [file.read_text(encoding="utf-8") for file in assets if file.name.endswith((".js", ".css"))]

    assert len(scripts) == 6
    assert not [text for text in scripts if "</s" in text or "<!--" in text]


@pytest.mark.parametrize("write", SEQUENCE_VIEWS)
def test_a_batch_needs_a_sample(write):
    batch = [torch.softmax(torch.randn(4, 3, 5, 5), -1) for _ in range(2)]

    with pytest.raises(InputError, match=r"holds 4 samples, and a page shows one: say which with sample="):
        write(batch, names())

    assert write(batch, names(), sample=2) == write([layer[2] for layer in batch], names())


@pytest.mark.parametrize("sample", [-1, 4])
def test_a_sample_that_is_not_there_is_refused(sample):
    with pytest.raises(InputError, match=f"one of the 4 in the batch, counted from 0, not {sample}"):
        attention_head_view([torch.rand(4, 3, 5, 5)], names(), sample=sample)


def test_a_batch_of_one_needs_no_sample():
    batch = attention()

    assert attention_head_view([layer[None] for layer in batch], names()) == attention_head_view(batch, names())


@pytest.mark.parametrize(
    ("maps", "tokens", "said"),
    [
        ([], names(), "at least one layer"),
        ([torch.rand(3, 5, 5)], names(4), "Layer 0 attends from 5 to 5 tokens with 3 heads, but .* names for 4 and 4"),
        ([torch.rand(3, 5, 6)], names(5), "Layer 0 attends from 5 to 6 tokens"),
        ([torch.rand(5, 5)], names(), r"Expected attention \(head, query, key\)"),
        ([torch.rand(3, 5, 5) - 0.5], names(), "NaN, infinite or negative"),
        ([torch.full((3, 5, 5), float("nan"))], names(), "NaN, infinite or negative"),
        ([torch.full((3, 5, 5), 1.5)], names(), "between 0 and 1, found 1.5. Logits need a softmax"),
        ([torch.rand(3, 5, 5)], "abcde", "tokens must be a list of strings"),
        ([torch.rand(3, 5, 5)], [1, 2, 3, 4, 5], "tokens must be a list of strings"),
    ],
)
def test_what_cannot_be_drawn_is_refused(maps, tokens, said):
    with pytest.raises(InputError, match=said):
        attention_head_view(maps, tokens)


def test_two_sequences_keep_their_own_tokens():
    page = attention_head_view(attention(queries=3), names(3), key_tokens=names(5))

    facts = facts_of(page)
    assert (len(facts["queries"]), len(facts["keys"]), facts["cross"]) == (3, 5, True)


def test_the_flow_view_takes_fused_maps_heads_and_samples():
    heads = attention()
    fused = [layer.mean(0) for layer in heads]

    page = attention_flow_view(heads, names())

    assert attention_flow_view(fused, names()) == page
    assert attention_flow_view([torch.stack([layer, layer.T]) for layer in fused], names(), sample=0) == page


def test_the_flow_view_takes_maps_that_are_no_probabilities():
    facts = facts_of(attention_flow_view([5 * torch.rand(4, 4)], names(4), target=-1, residual=0.25))

    assert (facts["target"], facts["residual"], facts["bits"]) == (3, 0.25, 16)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"residual": 1.5}, "residual must be between 0 and 1"), ({"target": 5}, "one of the 5 tokens")],
)
def test_options_of_the_flow_view_are_checked(options, said):
    with pytest.raises(InputError, match=said):
        attention_flow_view(attention(), names(), **options)


def test_patches_are_called_by_row_and_column():
    assert patch_names((1, 3), 1) == ["CLS", "0, 0", "0, 1", "0, 2"]
    assert patch_names((2, 1), 2) == ["prefix 0", "prefix 1", "0, 0", "1, 0"]
    assert patch_names((1, 1), 1, ["class"]) == ["class", "0, 0"]
    with pytest.raises(InputError, match="Expected 2 prefix_names, one a prefix token, found 1"):
        patch_names((1, 1), 2, ["class"])


def test_the_image_view_holds_the_image_to_the_pixel():
    import base64
    import io

    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3))
    page = attention_image_view(attention(queries=7, keys=7), pixels / 255, grid=(2, 3), prefix_tokens=1)

    facts = facts_of(page)
    picture = Image.open(io.BytesIO(base64.b64decode(facts["image"].split(",")[1])))
    np.testing.assert_array_equal(np.asarray(picture), pixels)
    assert (facts["size"], facts["grid"], facts["patch"], facts["prefix"]) == ([6, 9], [2, 3], [3.0, 3.0], 1)


@pytest.mark.parametrize(
    ("pixels", "options", "said"),
    [
        (torch.rand(3, 6, 9), {}, r"Expected pixels \(height, width, 3\), found \(3, 6, 9\)"),
        (2 * torch.ones(6, 9, 3), {}, "between 0 and 1, found 2 to 2: undo the normalisation"),
        (torch.full((6, 9, 3), float("nan")), {}, "between 0 and 1"),
        (torch.rand(6, 9, 3), {"grid": (3, 3)}, "names for 10 and 10"),
        (torch.rand(6, 9, 3), {"prefix_tokens": 0}, "names for 6 and 6"),
    ],
)
def test_images_that_do_not_fit_are_refused(pixels, options, said):
    with pytest.raises(InputError, match=said):
        attention_image_view(attention(queries=7, keys=7), pixels, **{"grid": (2, 3), "prefix_tokens": 1, **options})


# bertviz leaves its script open.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_bertviz_takes_the_attention_that_is_captured():
    bertviz = pytest.importorskip("bertviz", reason="bertviz is not installed")
    from tiny_models import tiny_model

    from attrib_plugin import RawAttention

    ids = torch.tensor([[2, 5, 6, 7, 3]])
    heads = RawAttention(tiny_model("bert", dtype=torch.float32)).head_attention(ids)

    shown = bertviz.head_view(heads, names(), html_action="return")

    # It holds our numbers; without a network the page itself stays empty, for its scripts come from elsewhere.
    assert f"{float(heads[0][0, 0, 0, 0]):.4f}"[:5] in shown.data
    assert "https://cdnjs.cloudflare.com" in shown.data

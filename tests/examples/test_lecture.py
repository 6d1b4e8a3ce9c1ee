"""The lecture: both languages have the same code, the notebooks are those of the scripts, and the text is true."""

import json
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext")

EXAMPLES = Path(__file__).parents[2] / "examples"
LANGUAGES = ("ru", "en")
LARGEST_BYTES = 2_000_000


def script_of(language):
    return jupytext.read(EXAMPLES / f"lecture_walkthrough_{language}.py")


def notebook_of(language):
    path = EXAMPLES / f"lecture_walkthrough_{language}.ipynb"
    return json.loads(path.read_text(encoding="utf-8"))


def sources(notebook, kind=None):
    cells = [cell for cell in notebook["cells"] if kind in (None, cell["cell_type"])]
    return ["".join(cell["source"]) for cell in cells]


def outputs_of(language):
    return [output for cell in notebook_of(language)["cells"] for output in cell.get("outputs", [])]


def printed_lines(language):
    texts = ["".join(output["text"]) for output in outputs_of(language) if output["output_type"] == "stream"]
    return "".join(texts).splitlines()


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_notebook_has_the_text_and_the_code_of_the_script(language):
    assert sources(notebook_of(language)) == sources(script_of(language)), "Run: make lecture"


def test_both_languages_have_the_same_code_and_the_same_steps():
    russian, english = script_of("ru"), script_of("en")
    headings = [[line for text in sources(one, "markdown") for line in text.splitlines() if line.startswith("## ")]
                for one in (russian, english)]  # fmt: skip

    assert sources(russian, "code") == sources(english, "code")
    assert [cell["cell_type"] for cell in russian["cells"]] == [cell["cell_type"] for cell in english["cells"]]
    assert [heading.split(".")[0] for heading in headings[0][:11]] == [f"## {number}" for number in range(1, 12)]
    assert [heading.split(".")[0] for heading in headings[1][:11]] == [f"## {number}" for number in range(1, 12)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_notebook_was_run_from_the_top_without_an_error(language):
    code = [cell for cell in notebook_of(language)["cells"] if cell["cell_type"] == "code"]
    outputs = outputs_of(language)

    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 14
    assert sum("text/html" in output.get("data", {}) for output in outputs) == 1


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_notebook_is_small_and_names_no_machine(language):
    path = EXAMPLES / f"lecture_walkthrough_{language}.ipynb"

    assert path.stat().st_size < LARGEST_BYTES
    assert not [line for line in printed_lines(language) if str(Path.home()) in line or "site-packages" in line]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_five_sentences_are_named_as_the_text_says(language):
    named = [line.split()[0] for line in printed_lines(language) if " NEUTRAL 0" in line]

    assert named == ["NEUTRAL", "NEGATIVE", "NEGATIVE", "POSITIVE", "POSITIVE"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_first_token_looks_at_special_tokens_in_layers_five_to_nine(language):
    rows = [line.split() for line in printed_lines(language) if line.startswith("layer ")]

    assert [row[2::2][:2] for row in rows[5:10]] == [["<s>", "</s>"]] * 5
    assert all(float(row[3]) + float(row[5]) > 0.85 and float(row[7]) < 0.05 for row in rows[5:10])


@pytest.mark.parametrize("language", LANGUAGES)
def test_flow_is_what_leaves_the_token_in_the_first_layer(language):
    flows = [line.split() for line in printed_lines(language) if "first layer" in line]

    assert len(flows) == 21
    assert all(flow[2] == flow[5] for flow in flows)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_strongest_word_changes_with_the_class_as_the_text_says(language):
    signed = {}
    for line in printed_lines(language):
        if " Актёры " in line and line.startswith(("NEGATIVE", "POSITIVE")) and "+" in line:
            name, *pairs = line.split()
            signed[name] = dict(zip(pairs[::2], map(float, pairs[1::2]), strict=True))

    assert max(signed["NEGATIVE"], key=signed["NEGATIVE"].get) == "скучный"
    assert max(signed["POSITIVE"], key=signed["POSITIVE"].get) == "прекрасно"
    assert max(values["предсказуемый"] for values in signed.values()) < 0
    assert abs(signed["POSITIVE"]["Актёры"]) < 0.1 * signed["POSITIVE"]["прекрасно"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_agreement_with_leaving_words_out_is_as_the_text_says(language):
    rows = [line.split()[:3] for line in printed_lines(language) if line.startswith(("+", "-"))]
    plain, weighted, relevance = zip(*(map(float, row) for row in rows), strict=True)

    assert len(rows) == 5
    assert all(ours > theirs for ours, theirs in zip(weighted, plain, strict=True))
    assert not all(ours > theirs for ours, theirs in zip(relevance, plain, strict=True))
    assert max(*weighted, *relevance) < 0.9


@pytest.mark.parametrize("language", LANGUAGES)
def test_maps_of_the_photo_move_with_the_class_and_rollout_does_not(language):
    shares = {}
    for line in printed_lines(language):
        if "on the left half" in line:
            name, *method = line.split(" on the left half ")[0].split()
            shares[name, " ".join(method)] = int(line.split()[-1].rstrip("%"))
    methods = {method for _, method in shares}

    assert shares["cat", "AttentionRollout"] == shares["rocket", "AttentionRollout"]
    for method in methods - {"AttentionRollout"}:
        assert shares["cat", method] > 75
        assert shares["rocket", method] < 50

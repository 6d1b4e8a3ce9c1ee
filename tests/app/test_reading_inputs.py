import io
from types import SimpleNamespace

import pytest
from PIL import Image

from attrib_plugin.app.reading_inputs import images, one_image, one_text, texts
from attrib_plugin.errors import InputError


@pytest.fixture
def stdin(monkeypatch):
    def put(content):
        given = SimpleNamespace(buffer=io.BytesIO(content), read=lambda: content.decode("utf-8"))
        monkeypatch.setattr("sys.stdin", given)

    return put


def picture(path, mode="RGB"):
    Image.new(mode, (8, 6), 0).save(path)
    return path


def test_texts_come_from_arguments_standard_input_and_files_in_this_order(tmp_path, stdin):
    stdin(b"second\n\n  third  \n")
    (tmp_path / "more.txt").write_text("fünf\nsechs\n", encoding="utf-8")
    (tmp_path / "ignored.md").write_text("no", encoding="utf-8")

    found = texts(["first", "-"], [tmp_path])

    assert [one.value for one in found] == ["first", "second", "third", "fünf", "sechs"]
    assert [one.name for one in found][-1] == "text-5"


def test_a_text_that_is_the_name_of_a_file_is_a_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good").write_text("bad", encoding="utf-8")

    assert texts(["good"])[0].value == "good"


def test_images_come_from_files_and_folders_sorted(tmp_path):
    (tmp_path / "folder").mkdir()
    single = picture(tmp_path / "z.png")
    for name in ("b.png", "a.JPG"):
        picture(tmp_path / "folder" / name)
    (tmp_path / "folder/notes.txt").write_text("no image")

    found = images([str(single), str(tmp_path / "folder")])

    assert [one.name for one in found] == ["z", "a", "b"]


def test_images_of_one_name_are_told_apart(tmp_path):
    paths = [str(picture(tmp_path / name)) for name in ("a.png", "a.jpg")]

    assert [one.name for one in images(paths)] == ["a-1", "a-2"]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_an_image_comes_from_standard_input(stdin, mode):
    content = io.BytesIO()
    Image.new(mode, (8, 6), 0).save(content, "png")
    stdin(content.getvalue())

    (found,) = images(["-"])

    assert found.name == "stdin"
    assert found.value.size == (8, 6)
    assert found.value.mode in ("RGB", "L")


def test_commands_of_one_input_take_standard_input(stdin):
    stdin(b" a text\nof two lines\n")

    assert one_text("-") == "a text\nof two lines"


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda: texts([]), "no text to explain"),
        (lambda: images([]), "no image to explain"),
        (lambda: images(["nowhere.png"]), "no file 'nowhere.png'"),
        (lambda: one_image("nowhere.png"), "no file 'nowhere.png'"),
    ],
)
def test_nothing_to_read_is_said(read, said):
    with pytest.raises(InputError, match=said):
        read()


def test_an_empty_folder_a_binary_text_and_no_image_are_refused(tmp_path, stdin):
    (tmp_path / "raw.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").mkdir()
    stdin(b"no image")

    with pytest.raises(InputError, match="holds no file that ends in"):
        images([str(tmp_path / "empty")])
    with pytest.raises(InputError, match="no text file in UTF-8"):
        texts([], [tmp_path / "raw.txt"])
    with pytest.raises(InputError, match="Standard input is no image"):
        images(["-"])

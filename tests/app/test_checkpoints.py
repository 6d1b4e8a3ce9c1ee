import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from attrib_plugin.app.checkpoints import fill, read_checkpoint
from attrib_plugin.errors import InputError


@pytest.fixture
def layer():
    return nn.Linear(3, 2)


def test_safetensors_and_plain_weights_are_read_alike(tmp_path, layer):
    save_file(layer.state_dict(), tmp_path / "one.safetensors")
    wrapped = {f"module.{name}": value for name, value in layer.state_dict().items()}
    torch.save({"model_state_dict": wrapped, "epoch": 3}, tmp_path / "two.pt")

    for name in ("one.safetensors", "two.pt"):
        other = nn.Linear(3, 2)
        fill(other, read_checkpoint(tmp_path / name), tmp_path / name)
        torch.testing.assert_close(other.weight, layer.weight)


class Evil:
    def __reduce__(self):
        return (open, ("ran", "w"))


def test_a_file_that_would_run_code_is_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"weight": Evil()}, protocol=2))
    torch.save({"weight": Evil()}, tmp_path / "evil2.pt")

    for name in ("evil.pt", "evil2.pt"):
        with pytest.raises(InputError, match="would have to run code are not read"):
            read_checkpoint(tmp_path / name)

    assert not (tmp_path / "ran").exists()


def test_broken_and_missing_files_are_said(tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")

    for name, said in {
        "nowhere.pt": "no checkpoint",
        "broken.safetensors": "cannot be read",
        "list.pt": "holds list",
        "empty.pt": "no weights by name",
    }.items():
        with pytest.raises(InputError, match=said):
            read_checkpoint(tmp_path / name)


def test_weights_that_do_not_fit_are_refused_with_their_names(tmp_path, layer):
    before = layer.weight.clone()
    weights = {"weight": torch.zeros(2, 4), "extra": torch.zeros(1)}

    with pytest.raises(InputError, match=r"1 missing \(bias\); 1 unknown \(extra\); 1 of another shape \(weight\)"):
        fill(layer, weights, tmp_path / "it.pt")

    torch.testing.assert_close(layer.weight, before)

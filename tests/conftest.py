"""Shared settings: no network, one seed, few threads."""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def sentencepiece_model():
    """A trained unigram model of sentencepiece's own tests (Apache-2.0)."""
    return Path(__file__).parent / "data" / "botchan_en_unigram_1000.model"

import shutil

import pytest

from lowrung.finetune.models import pretrained
from tests import training


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A trained tiny model and its reports, for looking at; who trains on gets one of their own."""
    return training.fine_tune(tmp_path_factory.mktemp("trained"), scores=["exact_match"])


@pytest.fixture
def copy(tmp_path):
    """A copy of `tiny`, to be spoilt."""
    folder = tmp_path / "model"
    shutil.copytree(pretrained.locate("embedded:tiny"), folder)
    return folder

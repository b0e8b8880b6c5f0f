from collections.abc import Iterator

import pytest

from lowrung.config.schema import Config
from tests import composing
from tests.composing import Composer


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    with composing.composer() as made:
        yield made


@pytest.fixture(scope="module")
def config(composer: Composer) -> Config:
    return composer.config("model=tiny")

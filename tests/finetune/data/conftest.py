import pytest

from lowrung.finetune.models import pretrained


@pytest.fixture(scope="module")
def tokenizer():
    return pretrained.load_tokenizer(pretrained.locate("embedded:tiny"))


@pytest.fixture
def without_template(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", None)
    return tokenizer

import copy

import pytest
import torch

from lowrung.finetune.models import generate, pretrained
from tests import architectures


def loaded():
    folder = pretrained.locate("embedded:tiny")
    return pretrained.load_model(folder, torch.float32, torch.device("cpu")), pretrained.load_tokenizer(folder)


def test_greedy_takes_the_most_probable_token_whatever_stands_beside():
    tiny, tokenizer = loaded()
    prompts = [tokenizer(text)["input_ids"] for text in ("a", "a much longer prompt", "mid one")]
    together = generate.greedy(tiny, tokenizer, prompts, new_tokens=5)
    for prompt, given in zip(prompts, together, strict=True):
        tokens = list(prompt)
        for token in given:
            assert token == int(tiny(torch.tensor([tokens])).logits[0, -1].argmax())
            tokens.append(token)
        assert len(given) <= 5


def test_prompt_and_answer_meet_where_the_last_labels_begin():
    row = {"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]}
    assert (generate.prompt_tokens(row), generate.answer_tokens(row)) == ([5, 6], [7, 8])
    dialogue = {"input_ids": [1, 2, 3, 4, 5], "labels": [-100, 2, -100, 4, 5]}
    assert (generate.prompt_tokens(dialogue), generate.answer_tokens(dialogue)) == ([1, 2, 3], [4, 5])


def test_answers_come_with_the_expected_ones():
    tiny, tokenizer = loaded()
    prompt = tokenizer("What")["input_ids"]
    right = generate.greedy(tiny, tokenizer, [prompt], new_tokens=3)[0]
    end = tokenizer.eos_token_id

    def row(answer):
        return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}

    class Parrot:
        """Says the right three tokens and stops, as a trained model would."""

        training, device, config = False, torch.device("cpu"), tiny.config

        def eval(self):
            return self

        def train(self, mode):
            return self

        def generate(self, input_ids, **_):
            given = torch.tensor([[*right, end]] * len(input_ids))
            return torch.cat([input_ids, given], dim=1)

    rows = [row([*right, end]), row([*right[:1], end]), row([*right, end])]
    given, expected = generate.answers(Parrot(), tokenizer, rows, batch_size=2)
    said = tokenizer.decode(right).strip()
    assert given == [said] * 3
    assert expected == [said, tokenizer.decode(right[:1]).strip(), said]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_what_is_generated_ends_where_the_context_does(name):
    """GPT-2 has no position beyond it; a Llama would go on."""
    model = architectures.random_model(copy.deepcopy(architectures.CONFIGS[name]))
    _, tokenizer = loaded()
    prompts = [list(range(1, length + 1)) for length in (30, 61, 64, 58, 70)]
    whole = generate.greedy(model, tokenizer, prompts, new_tokens=6)
    model.config.max_position_embeddings = 64
    given = generate.greedy(model, tokenizer, prompts, new_tokens=6)
    assert given == [whole[0], whole[1][:3], [], whole[3], []]

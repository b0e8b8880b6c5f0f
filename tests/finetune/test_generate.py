import torch

from lowrung.finetune import generate, model


def loaded():
    folder = model.locate("embedded:tiny")
    return model.load_model(folder, torch.float32, torch.device("cpu")), model.load_tokenizer(folder)


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


def test_prompt_tokens_end_at_the_first_label():
    row = {"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]}
    assert generate.prompt_tokens(row) == [5, 6]


def test_exact_match_counts_the_rows_that_are_right():
    tiny, tokenizer = loaded()
    prompt = tokenizer("What")["input_ids"]
    right = generate.greedy(tiny, tokenizer, [prompt], new_tokens=3)[0]
    end = tokenizer.eos_token_id

    def row(answer):
        return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}

    class Parrot:
        """Says the right three tokens and stops, as a trained model would."""

        training, device = False, torch.device("cpu")

        def eval(self):
            return self

        def train(self, mode):
            return self

        def generate(self, input_ids, **_):
            given = torch.tensor([[*right, end]] * len(input_ids))
            return torch.cat([input_ids, given], dim=1)

    rows = [row([*right, end]), row([*right[:1], end]), row([*right, end])]
    assert generate.exact_match(Parrot(), tokenizer, rows, batch_size=2) == 2 / 3

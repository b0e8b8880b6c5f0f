import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig

from lowrung.finetune.models import generate, pretrained
from lowrung.finetune.models.ends import Ends
from tests import architectures


def loaded():
    folder = pretrained.locate("embedded:tiny")
    return pretrained.load_model(folder, torch.float32, torch.device("cpu")), pretrained.load_tokenizer(folder)


NOT_GREEDY = {
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 2,
    "do_sample": True,
    "temperature": 3.0,
    "num_beams": 3,
    "min_new_tokens": 9,
    "max_length": 3,
    "forced_bos_token_id": 70,
    "forced_eos_token_id": 71,
    "suppress_tokens": [*range(72, 120)],
    "bad_words_ids": [[88]],
    "guidance_scale": 3.0,
    "stop_strings": ["a"],
    "max_time": 1e-9,
    "num_return_sequences": 2,
    "return_dict_in_generate": True,
    "cache_implementation": "static",
    "eos_token_id": [*range(200)],
    "of_another": 1,
}


@pytest.mark.parametrize("is_adapted", [False, True])
def test_greedy_takes_the_most_probable_token_whatever_stands_beside_or_in_the_generation_config(is_adapted):
    tiny, tokenizer = loaded()
    tiny.generation_config = GenerationConfig(**NOT_GREEDY)
    if is_adapted:
        torch.manual_seed(0)
        tiny = get_peft_model(tiny, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)).eval()
    prompts = [tokenizer(text)["input_ids"] for text in ("a", "a much longer prompt", "mid one")]
    together = generate.greedy(tiny, tokenizer, prompts, ends=Ends((256,)), new_tokens=5)
    for prompt, given in zip(prompts, together, strict=True):
        tokens = list(prompt)
        for token in given:
            assert token == int(tiny(torch.tensor([tokens])).logits[0, -1].argmax())
            tokens.append(token)
        assert len(given) == 5
    assert tiny.generation_config.to_dict().items() >= NOT_GREEDY.items()


def test_each_answer_ends_at_the_first_of_its_ends():
    tiny, tokenizer = loaded()
    prompts = [tokenizer(text)["input_ids"] for text in ("a", "b")]
    one, other = generate.greedy(tiny, tokenizer, prompts, ends=Ends(), new_tokens=9)
    assert one.index(one[3]) == 3
    ends = Ends((one[3],), tokenizer.decode(other[1:3]))
    given = generate.greedy(tiny, tokenizer, prompts, ends=ends, new_tokens=9)
    assert given[0] == one[:3]
    assert given[1][:3] == other[:3]
    assert ends.answer(tokenizer, given[1]) == tokenizer.decode(other[:1]).strip()


def test_prompt_and_answer_meet_where_the_last_labels_begin():
    row = {"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]}
    assert (generate.prompt_tokens(row), generate.answer_tokens(row)) == ([5, 6], [7, 8])
    dialogue = {"input_ids": [1, 2, 3, 4, 5], "labels": [-100, 2, -100, 4, 5]}
    assert (generate.prompt_tokens(dialogue), generate.answer_tokens(dialogue)) == ([1, 2, 3], [4, 5])


@pytest.mark.parametrize(
    ("ends", "end"),
    [(Ends((256,)), [256]), (Ends((258, 256)), [258, 198]), (Ends((256,), "\n###"), [198, 2, 2, 2, 198])],
    ids=["token", "token that another follows", "text"],
)
def test_answers_come_with_the_expected_ones(ends, end):
    tiny, tokenizer = loaded()
    prompt = tokenizer("What")["input_ids"]
    right = generate.greedy(tiny, tokenizer, [prompt], ends=Ends((256,)), new_tokens=3)[0]

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
            given = torch.tensor([[*right, *end]] * len(input_ids))
            return torch.cat([input_ids, given], dim=1)

    rows = [row([*right, *end]), row([*right[:1], *end]), row([*right, *end])]
    given, expected = generate.answers(Parrot(), tokenizer, rows, ends=ends, batch_size=2)
    said = tokenizer.decode(right).strip()
    assert given == [said] * 3
    assert expected == [said, tokenizer.decode(right[:1]).strip(), said]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_what_is_generated_ends_where_the_context_does(name):
    """GPT-2 has no position beyond it; a Llama would go on."""
    model = architectures.random_model(copy.deepcopy(architectures.CONFIGS[name]))
    _, tokenizer = loaded()
    prompts = [list(range(1, length + 1)) for length in (30, 61, 64, 58, 70)]
    whole = generate.greedy(model, tokenizer, prompts, ends=Ends(), new_tokens=6)
    model.config.max_position_embeddings = 64
    given = generate.greedy(model, tokenizer, prompts, ends=Ends(), new_tokens=6)
    assert given == [whole[0], whole[1][:3], [], whole[3], []]

"""What an adapter's settings leave as it is although a user may not expect it."""

from collections.abc import Iterator

from transformers import PreTrainedModel

from lowrung.config.schema import LoraConf
from lowrung.finetune.lora import settings
from lowrung.finetune.lora.fit import some
from lowrung.finetune.models import text_path


def notes(model: PreTrainedModel, lora: LoraConf) -> Iterator[str]:
    """Names the weights that stay as they are.

    Args:
        model: the base's skeleton.
        lora: settings that fit it.
    """
    yield from _expert_notes(model, lora)
    linear = settings.linear_layers(model, of_text=False)
    outside = sorted(linear.keys() - settings.linear_layers(model).keys())
    if outside := [name for name in outside if settings.is_wanted(name, lora.target_modules)]:
        yield (
            f"{len(outside)} linear layers that lora.target_modules means stay as they are, since text does not go"
            f" through them: {some(outside)}"
        )
    called = text_path.reached(model)
    if called is not None and (idle := [name for name in settings.targets(model, lora) if name not in called]):
        yield (
            f"the model takes the weights of {some(idle)} without calling these layers, so that their adapters learn"
            " nothing; lora.peft.exclude_modules leaves them out"
        )


def _expert_notes(model: PreTrainedModel, lora: LoraConf) -> Iterator[str]:
    if lora.experts or lora.target_modules not in ("all-linear", "mlp"):
        return
    adapted = settings.target_parameters(model, lora)
    left = {name: stack for name, stack in settings.stacks(model).items() if name not in adapted}
    if left:
        kinds = sorted({".".join(name.split(".")[-2:]) for name in left})
        share = sum(stack.numel() for stack in left.values()) / model.num_parameters()
        yield (
            f"lora.target_modules={lora.target_modules} adapts linear layers, which {' and '.join(kinds)} are not:"
            f" {share:.0%} of the model's weights stay as they are; lora.experts=true adapts them"
        )

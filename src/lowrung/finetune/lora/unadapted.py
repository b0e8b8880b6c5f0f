"""What an adapter's settings leave as it is although a user may not expect it."""

from collections.abc import Iterator

from transformers import PreTrainedModel

from lowrung.config.schema import LoraConf
from lowrung.errors import some
from lowrung.finetune.lora import settings
from lowrung.finetune.models import text_path


def notes(model: PreTrainedModel, lora: LoraConf) -> Iterator[str]:
    """Names the weights that stay as they are.

    Args:
        model: the base's skeleton.
        lora: settings that fit it.
    """
    yield from _expert_notes(model, lora)
    taken, possible = settings.taken_names(model), settings.linear_layers(model)
    wanted = [name for name in settings.all_linear_layers(model) if settings.is_wanted(name, lora.target_modules)]
    beyond = [name for name in wanted if name not in possible]
    if named := [name for name in beyond if name.rsplit(".", 1)[-1] in taken]:
        yield (
            f"{len(named)} linear layers that lora.target_modules means stay as they are, since PEFT takes their names"
            f" for those of experts: {some(named)}"
        )
    if outside := [name for name in beyond if name not in named]:
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
    left = {name: stack for name, stack in settings.experts(model).items() if name not in adapted}
    if left:
        kinds = sorted({".".join(name.split(".")[-2:]) for name in left})
        share = sum(stack.numel() for stack in left.values()) / model.num_parameters()
        yield (
            f"lora.target_modules={lora.target_modules} adapts linear layers, which {' and '.join(kinds)} are not:"
            f" {share:.0%} of the model's weights stay as they are; lora.experts=true adapts them"
        )

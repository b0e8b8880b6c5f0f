"""``verify.runs=finalists``: the gate checks the runs of the last stage alone."""

import dataclasses

from lowrung.config.schema import VerifyConf
from lowrung.sweeps.stages import Asked


def verified(asked: Asked, verify: VerifyConf) -> Asked:
    """The stages, with the gate left out of all but the last one where only finalists are verified.

    The last stage starts from what an earlier one found, so the gate is put back there.

    Args:
        asked: the stages.
        verify: the sweep's settings of the gate.
    """
    if verify.runs != "finalists" or not verify.enabled:
        return asked
    if len(asked.stages) < 2:
        problem = (
            "verify.runs=finalists must have hydra.sweeper.stages of two stages or more, since the last one's runs are"
            " the finalists. Add stages, or leave it out."
        )
        return dataclasses.replace(asked, problems=[*asked.problems, problem])
    off = ("verify.enabled=false", "verify.forgetting=0")
    on = ("verify.enabled=true", f"verify.forgetting={verify.forgetting}")
    *earlier, last = asked.stages
    stages = [(stage, off) for stage in earlier] + [(last, on)]
    return dataclasses.replace(
        asked,
        stages=[
            dataclasses.replace(stage, spaces=tuple((*space, *gate) for space in stage.spaces))
            for stage, gate in stages
        ],
    )

"""What every run does alike before its first step. To import this is to have it done: the engine's fork server does so.

A run reaches its first step in half a second less; what is used at first use alone would be imported by each run anew.
"""

from hydra.core.plugins import Plugins

import lowrung.engine.hydra_job
import lowrung.runs.task
import lowrung.track.database  # noqa: F401
from lowrung.config import signature
from lowrung.finetune.models import pretrained

Plugins.instance()
pretrained.prepare()
signature.versions(signature.RECORDED)

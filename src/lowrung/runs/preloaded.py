"""What every run does alike before its first step. To import this is to have it done: the engine's fork server does so.

A run reaches its first step in half a second less; what is used at first use alone would be imported by each run anew.
"""

import importlib

from hydra.core.plugins import Plugins

import lowrung.engine.hydra_job
import lowrung.runs.task
import lowrung.track.database  # noqa: F401
from lowrung.config import signature
from lowrung.engine import put_off
from lowrung.finetune.models import pretrained

Plugins.instance()
pretrained.prepare()
signature.versions(signature.RECORDED)
if put_off.is_waiting():  # each job imports it: this is 1.6 of the 1.9 s of CPU time that it would take
    importlib.import_module("torch._inductor.compile_fx")

"""Imported before other modules, it keeps them from initialising CUDA where there may be a GPU."""

from lowrung.engine import gpus, put_off

if gpus.count() or not gpus.is_countable():
    put_off.put_off()

"""Imported before other modules, it keeps the garbage collector off: imports make no garbage, its walks take 2 s."""

import gc

gc.disable()

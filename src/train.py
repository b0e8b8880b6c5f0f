"""``lowrung train`` from a checkout, installed or not: one run, or with ``-m`` a sweep. See ``--help``."""

import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while libraries are imported needs no traceback
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from lowrung.commands import train

    signal.signal(signal.SIGINT, signal.default_int_handler)
    train.start()

"""What many tests share: a quiet environment, and one tiny model trained once."""

import os

# Before torch is imported anywhere: see lowrung.cli.run.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

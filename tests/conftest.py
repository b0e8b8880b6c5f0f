"""What many tests share: a quiet environment, and one tiny model trained once."""

import os

# Before torch is imported anywhere: see lowrung.cli.run.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import sys

import absl.logging

# rouge-score brings absl's log handler, which closes its stream when Hydra sets up logging. Made here, it would hold
# pytest's own.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__

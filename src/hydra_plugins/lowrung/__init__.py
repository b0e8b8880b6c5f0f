"""Lowrung's Hydra plugins; the scanner imports each module here at the start of every Hydra app."""

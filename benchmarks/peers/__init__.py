"""lowrung against a loop over ``trl sft`` and against Hydra's Optuna sweeper, on one machine, with the same work."""

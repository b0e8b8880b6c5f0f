"""Training one adapter with TRL."""

"""What is done with a trained adapter: verify it, merge it."""

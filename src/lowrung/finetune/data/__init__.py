"""The task: examples from sources, split, and turned into tokens."""

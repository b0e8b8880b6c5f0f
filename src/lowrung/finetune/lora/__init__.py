"""The adapter: its settings, its inits, and how it is saved and merged."""

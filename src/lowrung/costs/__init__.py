"""What a run will take of memory, time and disk: formulas, and what earlier runs on this machine measured."""

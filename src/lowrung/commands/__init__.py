"""The commands for after training, a module for each: its arguments, what it does, and what it prints."""

"""What is done after training, a module for each command: they find what was named, ask, and put answers into words."""

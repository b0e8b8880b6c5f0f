"""How sure a difference between trials is: statistics of paired held-out examples and of seeds."""

"""What the plan says of runs' memory and time, and what they took; docs/plan.md."""

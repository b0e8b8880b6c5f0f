"""What to try: the search space and the study."""

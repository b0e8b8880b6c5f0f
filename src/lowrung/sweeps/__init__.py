"""Many runs: a sweep from its overrides to its leaderboard."""

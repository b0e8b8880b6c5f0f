"""What is shown to people: progress while runs go on, a leaderboard after."""

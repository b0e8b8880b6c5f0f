"""Whether this machine can do what lowrung needs: one small function for each question, with what to do about it."""

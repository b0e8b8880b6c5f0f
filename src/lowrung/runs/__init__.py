"""One run: as a command of its own, or as a trial of a sweep."""

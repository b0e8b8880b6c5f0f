"""What lies on disk, and how it is written: the standard library only."""

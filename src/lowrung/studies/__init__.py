"""Studies as they lie on the disk, read for their reports: one that runs, has ended, or is half deleted."""

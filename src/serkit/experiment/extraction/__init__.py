"""Features of video clips, by any number of processes."""

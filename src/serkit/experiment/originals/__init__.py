"""What the authors of the five systems publish: their files, settings and calls."""

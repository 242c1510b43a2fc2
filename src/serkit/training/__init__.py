"""One loop, objectives as data, members of a cross-validation side by side."""

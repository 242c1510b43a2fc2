"""Experiments of which the result is a decomposition of speech."""

"""Experiments of which the result is a speech recogniser."""

"""Experiments on clips: voice, words and face."""

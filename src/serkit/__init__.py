"""serkit: speech emotion recognition, honestly judged."""

__version__ = "0.1.0"

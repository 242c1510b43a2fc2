"""``python -m serkit.cli``, as torchrun starts it."""

from serkit.cli import main

main()

"""``python -m attncast``."""

from .cli import main

main()

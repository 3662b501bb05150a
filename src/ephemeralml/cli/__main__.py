"""`python -m ephemeralml.cli`."""

from ephemeralml.cli import main

main()

"""`python -m personavec`."""

from personavec.cli import main

main()

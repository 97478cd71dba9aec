"""`python -m robustidps` is the command `robustidps`."""

from robustidps.cli import main

main()

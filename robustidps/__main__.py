"""`python -m robustidps` is the command `robustidps`."""

from robustidps.cli import main

if __name__ == "__main__":  # a worker process imports its parent's main module, and must not run the command again
    main()

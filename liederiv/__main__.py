"""`python -m liederiv` is the command line."""

from liederiv.cli import main

if __name__ == "__main__":
    main()

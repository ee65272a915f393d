"""`python -m rapgym`: the command line."""

import sys

from rapgym.cli import main

if __name__ == "__main__":
    sys.exit(main())

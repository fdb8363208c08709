"""`python -m fastpde` is the `fastpde` command."""

import sys

from fastpde.cli import main

if __name__ == "__main__":
    sys.exit(main())

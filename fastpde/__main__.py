"""The `fastpde` command as `python -m fastpde`."""

import sys

from fastpde.cli import main

if __name__ == "__main__":
    sys.exit(main())

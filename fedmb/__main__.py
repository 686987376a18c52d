"""`python -m fedmb` is `fedmb`."""

from __future__ import annotations

import sys

from fedmb.cli import main

if __name__ == "__main__":
    sys.exit(main())

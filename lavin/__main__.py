"""``python -m lavin`` is ``lavin``."""

import sys

from lavin.cli import main

if __name__ == "__main__":
    sys.exit(main())

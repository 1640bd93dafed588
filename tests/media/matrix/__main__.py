"""`python -m tests.media.matrix`: see run.py, which worker processes import by its own name."""

import sys

from tests.media.matrix.run import main

if __name__ == "__main__":
    sys.exit(main())

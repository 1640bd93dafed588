"""Serve models and indexes over HTTP until the job is stopped.

    ray job submit --no-wait --working-dir . -- python jobs/serve.py --config gve-3b.yaml \
        --models '[{"name": "gve-3b", "index": "/shared/index"}]'

Exit status: 0 stopped, 1 it did not start, 2 wrong arguments, or a requirement is missing.
"""

import sys

from gve_ray.cli import connect
from gve_ray.registry import JOBS


def main() -> int:
    """Load the config and run the job on the Ray cluster that it was submitted to."""
    return JOBS["serve"].main(sys.argv[1:], prog="jobs/serve.py", connect=connect)


if __name__ == "__main__":
    sys.exit(main())

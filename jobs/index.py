"""Index the moments of a folder of videos. A second run processes only what has changed.

    ray job submit --working-dir . -- python jobs/index.py --config gve-3b.yaml \
        --input s3://bucket/videos --output /shared/index

Exit status: 0 done, 1 the run failed, 2 wrong arguments, or a requirement is missing.
"""

import sys

from gve_ray.cli import connect
from gve_ray.registry import JOBS


def main() -> int:
    """Load the config and run the job on the Ray cluster that it was submitted to."""
    return JOBS["index"].main(sys.argv[1:], prog="jobs/index.py", connect=connect)


if __name__ == "__main__":
    sys.exit(main())

"""Evaluate models on retrieval data sets such as UVRB: scores with confidence intervals, rankings and counts.

    ray job submit --working-dir . -- python jobs/evaluate.py --config gve-3b.yaml \
        --root /shared/uvrb --output /shared/gve-3b-evaluation

--sweep.frames and --sweep.max_pixels take lists; every combination is scored (test-time scaling).
--check reads and decodes the data sets and prints one line per fault, without embedding.
Exit status: 0 done, 1 the run failed, 2 wrong arguments, faulty data, or a requirement is missing.
"""

import sys

from gve_ray.cli import connect
from gve_ray.registry import JOBS


def main() -> int:
    """Load the config and run the job on the Ray cluster that it was submitted to."""
    return JOBS["evaluate"].main(sys.argv[1:], prog="jobs/evaluate.py", connect=connect)


if __name__ == "__main__":
    sys.exit(main())

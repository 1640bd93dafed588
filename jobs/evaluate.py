"""UVRB: score models on retrieval data sets, with confidence intervals, rankings and counts.

    ray job submit --working-dir . -- python jobs/evaluate.py --config gve-3b.yaml \
        --root /shared/uvrb --output /shared/gve-3b-evaluation

--sweep.frames and --sweep.max_pixels take lists, and every pair is scored (test-time scaling).
--check reads and decodes the data sets, prints one line per error, and embeds nothing.
Exit status: 0 done, 1 the job failed, 2 wrong arguments, errors in the data, or something needed is missing.
"""

import sys

from gve_ray.registry import JOBS


def main() -> int:
    """Run the job on the cluster that it was submitted to."""
    import ray

    return JOBS["evaluate"].main(sys.argv[1:], prog="jobs/evaluate.py", connect=ray.init)


if __name__ == "__main__":
    sys.exit(main())

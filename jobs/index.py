"""Index the moments of a folder of videos; a second run processes only what has changed since.

    ray job submit --working-dir . -- python jobs/index.py --config gve-3b.yaml \
        --input s3://bucket/videos --output /shared/index

Exit status: 0 done, 1 the job failed, 2 wrong arguments, or something that it needs is missing.
"""

import sys

from gve_ray.registry import JOBS


def main() -> int:
    """Run the job on the cluster that it was submitted to."""
    import ray

    return JOBS["index"].main(sys.argv[1:], prog="jobs/index.py", connect=ray.init)


if __name__ == "__main__":
    sys.exit(main())

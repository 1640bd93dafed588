"""A folder of videos in, an index of their moments out; a second run does only what has changed since.

    ray job submit --working-dir . -- python jobs/index.py --config gve-3b.yaml \
        --input s3://bucket/videos --output /shared/index

Exit status: 0 done, 1 the run failed, 2 wrong arguments, or something that it needs is missing.
"""

import sys

from gve_ray.config import load_config
from gve_ray.indexing.config import IndexConfig
from gve_ray.job import run_job


def main() -> int:
    """Parse, and hand over; the cluster is the one that the job runs on."""
    import ray

    from gve_ray.indexing.run import index

    config = load_config(IndexConfig, prog="jobs/index.py")
    return run_job(lambda: index(config, connect=ray.init))


if __name__ == "__main__":
    sys.exit(main())

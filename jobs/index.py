"""Index the moments of a folder of videos. A second run processes only what has changed.

    ray job submit --working-dir . -- python jobs/index.py --config gve-3b.yaml \
        --input s3://bucket/videos --output /shared/index

Exit status: 0 done, 1 the run failed, 2 wrong arguments, or a requirement is missing.
"""

import sys

from gve_ray.config import load_config
from gve_ray.indexing.config import IndexConfig
from gve_ray.job import run_job


def main() -> int:
    """Load the config and run the job on the Ray cluster that it was submitted to."""
    import ray

    from gve_ray.indexing.run import index

    config = load_config(IndexConfig, prog="jobs/index.py")
    return run_job(lambda: index(config, connect=ray.init))


if __name__ == "__main__":
    sys.exit(main())

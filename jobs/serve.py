"""Serve models and indexes over HTTP until the job is stopped.

    ray job submit --no-wait --working-dir . -- python jobs/serve.py --config gve-3b.yaml \
        --models '[{"name": "gve-3b", "index": "/shared/index"}]'

Exit status: 0 stopped, 1 it did not start, 2 wrong arguments, or a requirement is missing.
"""

import sys

from gve_ray.config import load_config
from gve_ray.job import run_job
from gve_ray.serving.config import ServeConfig


def main() -> int:
    """Load the config and run the job on the Ray cluster that it was submitted to."""
    import ray

    from gve_ray.serving.run import serve

    config = load_config(ServeConfig, prog="jobs/serve.py")
    return run_job(lambda: serve(config, connect=ray.init))


if __name__ == "__main__":
    sys.exit(main())

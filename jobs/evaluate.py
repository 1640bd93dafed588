"""Evaluate models on retrieval data sets such as UVRB: scores with confidence intervals, rankings and counts.

    ray job submit --working-dir . -- python jobs/evaluate.py --config gve-3b.yaml \
        --root /shared/uvrb --output /shared/gve-3b-evaluation

--sweep.frames and --sweep.max_pixels take lists; every combination is scored (test-time scaling).
--check reads and decodes the data sets and prints one line per fault, without embedding.
Exit status: 0 done, 1 the run failed, 2 wrong arguments, faulty data, or a requirement is missing.
"""

import sys

from gve_ray.config import load_config
from gve_ray.evaluation.config import EvaluationJobConfig
from gve_ray.job import run_job


def main() -> int:
    """Load the config and run the job on the Ray cluster that it was submitted to."""
    import ray

    from gve_ray.evaluation.sources import check
    from gve_ray.evaluation.sweep import run

    args = [arg for arg in sys.argv[1:] if arg != "--check"]
    config = load_config(EvaluationJobConfig, args, prog="jobs/evaluate.py")
    if "--check" in sys.argv[1:]:
        return run_job(lambda: check(config))
    return run_job(lambda: run(config, connect=ray.init))


if __name__ == "__main__":
    sys.exit(main())

"""UVRB: retrieval data sets and models in, scores with intervals, rankings and counts out.

    ray job submit --working-dir . -- python jobs/evaluate.py --config gve-3b.yaml \
        --root /shared/uvrb --output /shared/gve-3b-evaluation

--sweep.frames and --sweep.max_pixels take lists and score at every pair of them (test-time scaling).
--check reads and decodes the data sets, prints one line a fault, and embeds nothing.
Exit status: 0 done, 1 the run failed, 2 wrong arguments, data with faults, or something needed is missing.
"""

import sys

from gve_ray.config import load_config
from gve_ray.evaluation.config import EvaluationJobConfig
from gve_ray.job import run_job


def main() -> int:
    """Parse, and hand over; the cluster is the one that the job runs on."""
    import ray

    from gve_ray.evaluation.data.eval_sets import check
    from gve_ray.evaluation.sweep import run

    args = [arg for arg in sys.argv[1:] if arg != "--check"]
    config = load_config(EvaluationJobConfig, args, prog="jobs/evaluate.py")
    if "--check" in sys.argv[1:]:
        return run_job(lambda: check(config))
    return run_job(lambda: run(config, connect=ray.init))


if __name__ == "__main__":
    sys.exit(main())

"""The Modality Pyramid on Ray Train: training pairs and a base model in, a LoRA adapter out.

    ray job submit --working-dir . -- python jobs/train.py --config gve-3b.yaml \
        --output /shared/gve-3b --assets s3://bucket/run-1/assets.lance

Exit status: 0 done, 1 the run failed, 2 wrong arguments, or something that it needs is missing.
"""

import sys

from gve_ray.config import load_config
from gve_ray.job import run_job
from gve_ray.training.config import TrainingJobConfig


def main() -> int:
    """Parse, and hand over; the cluster is the one that the job runs on."""
    import ray

    from gve_ray.training.run import train

    config = load_config(TrainingJobConfig, prog="jobs/train.py")
    return run_job(lambda: train(config, connect=ray.init))


if __name__ == "__main__":
    sys.exit(main())

"""The Modality Pyramid on Ray Train: train a LoRA adapter from training pairs and a base model.

    ray job submit --working-dir . -- python jobs/train.py --config gve-3b.yaml \
        --output /shared/gve-3b --assets s3://bucket/run-1/assets.lance

Exit status: 0 done, 1 the job failed, 2 wrong arguments, or something that it needs is missing.
"""

import sys

from gve_ray.registry import JOBS


def main() -> int:
    """Run the job on the cluster that it was submitted to."""
    import ray

    return JOBS["train"].main(sys.argv[1:], prog="jobs/train.py", connect=ray.init)


if __name__ == "__main__":
    sys.exit(main())

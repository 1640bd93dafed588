"""Train a LoRA adapter for a base model with the Modality Pyramid curriculum, on Ray Train.

    ray job submit --working-dir . -- python jobs/train.py --config gve-3b.yaml \
        --output /shared/gve-3b --assets s3://bucket/run-1/assets.lance

Exit status: 0 done, 1 the run failed, 2 wrong arguments, or a requirement is missing.
"""

import sys
from functools import partial

from gve_ray.cli import connect
from gve_ray.registry import JOBS


def main() -> int:
    """Load the config and run the job on the Ray cluster that it was submitted to."""
    return JOBS["train"].main(sys.argv[1:], prog="jobs/train.py", connect=partial(connect, dashboard=True))


if __name__ == "__main__":
    sys.exit(main())

"""Run V-SynFlow: make assets, annotations and training pairs from raw videos with noisy captions.

    ray job submit --working-dir . -- python jobs/synthesize.py --config gve-3b.yaml \
        --input s3://bucket/manifest.parquet --output s3://bucket/run-1

Exit status: 0 done, 1 the run failed, 2 wrong arguments, or a requirement is missing.
"""

import sys

from gve_ray.cli import connect
from gve_ray.registry import JOBS


def main() -> int:
    """Load the config and run the job on the Ray cluster that it was submitted to."""
    return JOBS["synthesize"].main(sys.argv[1:], prog="jobs/synthesize.py", connect=connect)


if __name__ == "__main__":
    sys.exit(main())

"""Run V-SynFlow: make assets, annotations and training pairs from raw videos with noisy captions.

    ray job submit --working-dir . -- python jobs/synthesize.py --config gve-3b.yaml \
        --input s3://bucket/manifest.parquet --output s3://bucket/run-1

Exit status: 0 done, 1 the run failed, 2 wrong arguments, or a requirement is missing.
"""

import sys

from gve_ray.config import SynthesisConfig, load_config
from gve_ray.job import run_job


def main() -> int:
    """Load the config and run the job on the Ray cluster that it was submitted to."""
    import ray

    from gve_ray.synthesis.pipeline import synthesize

    config = load_config(SynthesisConfig, prog="jobs/synthesize.py")
    return run_job(lambda: synthesize(config, connect=ray.init))


if __name__ == "__main__":
    sys.exit(main())

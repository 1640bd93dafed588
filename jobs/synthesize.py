"""V-SynFlow: raw videos with noisy captions in, assets, annotations and training pairs out.

    ray job submit --working-dir . -- python jobs/synthesize.py --config gve-3b.yaml \
        --input s3://bucket/manifest.parquet --output s3://bucket/run-1

Exit status: 0 done, 1 the run failed, 2 wrong arguments, or something that it needs is missing.
"""

import sys

from gve_ray.config import SynthesisConfig, load_config
from gve_ray.job import run_job


def main() -> int:
    """Parse, and hand over; the cluster is the one that the job runs on."""
    import ray

    from gve_ray.synthesis.pipeline import synthesize

    config = load_config(SynthesisConfig, prog="jobs/synthesize.py")
    return run_job(lambda: synthesize(config, connect=ray.init))


if __name__ == "__main__":
    sys.exit(main())

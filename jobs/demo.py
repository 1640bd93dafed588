"""Run all jobs on this machine on a small rendered world with known ground truth (`make demo`).

    python jobs/demo.py --videos 320

It renders the raw corpus, starts a Ray head, submits the jobs, and writes their scores against the ground truth to
runs/demo/summary.json. Started again, it resumes. Ctrl-C stops all processes.
"""

import argparse
import logging
import signal
import sys
from pathlib import Path

from gve_ray.config import expand_home
from gve_ray.demo.ray_head import HeadError
from gve_ray.demo.run import run_demo

REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> int:
    """Parse the arguments and run the demo."""
    parser = argparse.ArgumentParser(prog="jobs/demo.py", description=__doc__)
    parser.add_argument("--videos", type=int, default=320, help="files in the raw corpus (default 320)")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--folder", default=str(REPOSITORY / "runs"), help="holds demo-raw/ and demo/")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every request
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as with Ctrl-C
    try:
        run_demo(REPOSITORY, Path(expand_home(args.folder)).resolve(), videos=args.videos, seed=args.seed)
    except (HeadError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; start again to resume", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

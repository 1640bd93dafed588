"""Add a stage to `gve synthesize`: a filter that rejects videos with text burnt into the picture.

    python examples/add_a_stage.py FOLDER [--max_share 0.12]     # try it on files, without a job

To use it in the job, put this file where the job is started (the current folder, or the folder that
`ray job submit --working-dir` uploads), and name the class in the config:

    stages:
    - name: text_overlay
      after: dynamics
      worker: add_a_stage:TextOverlayFilter
      options: {max_share: 0.12}

The measure: letters are rows of narrow strokes, so a line of text is a band of the picture in which
the brightness often jumps from one pixel to its neighbour. `text_share` is the share of such jumps in
the band that has most of them. Fences, foliage and other dense textures score high as well; look at
the rejects in report.html before you trust a threshold. The package has a better filter of this kind
(`quality.content.text_overlay`); this one shows how to write your own.
"""

import argparse
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gve_ray.media import MediaError, encode_jpeg, read_frames
from gve_ray.stage import Reject

JUMP = 60  # grey levels between two neighbouring pixels of a row
BANDS = 12  # a line of text fills about one of this many bands of the picture's height


def text_share(grey: np.ndarray) -> float:
    """Return the largest share of brightness jumps in any band of rows, 0 to 1.

    grey: uint8 [height, width], brightness of one frame.
    """
    jumps = np.abs(np.diff(grey.astype(np.int16), axis=1)) > JUMP  # bool [height, width - 1]
    return max(float(band.mean()) for band in np.array_split(jumps, BANDS))


class TextOverlayFilter:
    """Rejects a video if at least half of its frames have a band of text.

    max_share: the largest `text_share` of a frame without text.
    """

    def __init__(self, max_share: float = 0.12) -> None:
        self._max_share = max_share

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any] | Reject]:
        """Return each row of a decoded video, or a reject in its place."""
        return [self._judge(row) for row in rows]

    def _judge(self, row: Mapping[str, Any]) -> Mapping[str, Any] | Reject:
        frames = (Image.open(io.BytesIO(jpeg)).convert("L") for jpeg in row["frames"])
        share = float(np.median([text_share(np.asarray(frame)) for frame in frames]))
        if share <= self._max_share:
            return row
        detail = f"text share {share:.3f} above {self._max_share:g}"
        return Reject("text_overlay", detail, {"text_share": share})


def main(args: Sequence[str] | None = None) -> None:
    """Print the verdict on each file of a folder."""
    parser = argparse.ArgumentParser(description=TextOverlayFilter.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--max_share", type=float, default=0.12)
    options = parser.parse_args(args)
    judge = TextOverlayFilter(options.max_share)
    for path in sorted(options.folder.iterdir()):
        try:
            frames = read_frames(str(path), k=8).pixels
        except MediaError as error:
            print(f"{path.name}: not read: {error}")
            continue
        # In the job, a row has all columns of assets.lance that precede captions.
        (verdict,) = judge([{"frames": [encode_jpeg(frame) for frame in frames]}])
        print(f"{path.name}: {verdict.detail if isinstance(verdict, Reject) else 'passes'}")


if __name__ == "__main__":
    main()

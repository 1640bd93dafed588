"""NeMo Curator's reader and motion filter on Ray Data, a program that benchmarks/peers.py runs.

    /path/to/its/python benchmarks/peers_nemo_curator.py manifest.jsonl dropped.json CPUS

Needs nemo_curator[video_cpu,cv2] 1.4 with av==15.1.0, and ffprobe on the PATH. Each file is one clip with its own
bytes: Curator would encode clips again, which the other programs do not do either. Writes the ids of videos
without metadata, of clips that its motion filter judges and does not keep (it judges none below 256 pixels), and
of files whose names its reader does not look for, such as GIF. It has no filter of captions, and no search for
copies without a GPU.
"""

import json
import sys
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

import ray
from nemo_curator.backends.ray_data import RayDataExecutor
from nemo_curator.pipeline import Pipeline
from nemo_curator.stages.base import ProcessingStage
from nemo_curator.stages.video.filtering.motion_filter import MotionFilterStage, MotionVectorDecodeStage
from nemo_curator.stages.video.io.video_reader import VideoReader
from nemo_curator.tasks.video import Clip, Video, VideoTask


@dataclass
class WholeFile(ProcessingStage[VideoTask, VideoTask]):
    """Makes each file with metadata one clip."""

    name: str = "whole_file"

    def inputs(self) -> tuple[list[str], list[str]]:
        return ["data"], ["source_bytes"]

    def outputs(self) -> tuple[list[str], list[str]]:
        return ["data"], []

    def process(self, task: VideoTask) -> VideoTask:
        video = task.data
        if video.metadata.duration:
            name, span = str(video.input_video), (0.0, video.metadata.duration)
            video.clips = [Clip(uuid=uuid.uuid4(), source_video=name, span=span, buffer=video.source_bytes)]
        video.source_bytes = None
        return task


def is_kept(video: Video) -> bool:
    too_small = [
        clip for clip in video.filtered_clips if clip.errors.get("motion_decode") == "resolution_too_small"
    ]
    return bool(video.clips or too_small)


def main(manifest: str, dropped: str, cpus: str) -> None:
    rows = [json.loads(line) for line in Path(manifest).read_text().splitlines()]
    ray.init(num_cpus=int(cpus), include_dashboard=False)
    with tempfile.TemporaryDirectory() as name:
        for row in rows:  # a folder with the files of the manifest, and no other
            Path(name, f"{row['video_id']}{Path(row['uri']).suffix}").symlink_to(row["uri"])
        stages = [
            VideoReader(input_video_path=name),
            WholeFile(),
            MotionVectorDecodeStage(num_cpus_per_worker=1.0),
        ]
        tasks = Pipeline(name="peers", stages=[*stages, MotionFilterStage()]).run(RayDataExecutor())
        kept = {Path(task.data.input_video).stem for task in tasks or [] if is_kept(task.data)}
    Path(dropped).write_text(json.dumps([row["video_id"] for row in rows if row["video_id"] not in kept]))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Files of every kind give the right frames, at the right times, the right way up, on both paths."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gve_ray.media import DecodeProcess, decode
from tests.media.matrix.cases import short_form
from tests.media.matrix.judge import examine
from tests.media.matrix.pictures import ORIENTATIONS, draw, read

CASES = short_form()
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_right_frames_or_the_right_refusal(case):
    data = case.make()
    for strict in (True, False):
        verdict = examine(case, data, decode, strict=strict, thorough=False)
        assert not verdict.faults, f"strict={strict}"
        assert verdict.refusal or verdict.frames


def test_the_decoding_process_gives_the_same():
    with DecodeProcess() as process:
        for case in CASES[::15]:
            for strict in (True, False):
                verdict = examine(case, case.make(), process.decode, strict=strict, thorough=False)
                assert not verdict.faults, f"{case.name}, strict={strict}"


def test_pictures_are_read_whichever_way_up_they_are_and_faults_are_seen():
    for code in (0, 77, 255):
        for name, turn in ORIENTATIONS.items():
            reading = read(np.ascontiguousarray(turn(draw(code, 160, 96))))
            assert (reading.code, reading.orientation) == (code, name)
    half = (draw(170) // 2 + draw(85) // 2).astype(np.uint8)  # two frames blended
    assert read(half).code is None
    assert read(np.full((96, 160, 3), 128, np.uint8)).orientation not in ORIENTATIONS


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_whole_matrix():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    command = [sys.executable, "-m", "tests.media.matrix"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=3000)

"""Tests the list of formats: every one has a case, and the recipe of the whole mixture has the paper's figures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gve_ray.config import load_config
from gve_ray.training.config import DataSetConfig, TrainingJobConfig
from gve_ray.training.formats import FORMATS
from gve_ray.training.mixture import check_sources
from gve_ray.training.readers.reader import task_of
from tests.training.readers import test_references, test_rows
from tests.training.readers.cases import config_of


def test_every_data_set_has_a_case() -> None:
    covered = {case.format for case in [*test_rows.CASES, *test_references.CASES]} | {
        "vast"
    }  # its captions are drawn at random: see test_rows.py
    forms = set(list(FORMATS)[: list(FORMATS).index("msmarco")])
    assert set(FORMATS) - forms <= covered


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "cirr"}, r"data\.u\.pool='': cirr needs the file"),
        ({"format": "webvid", "pool": "x"}, r"data\.u\.pool='x': webvid refers to no other file"),
        ({"format": "cc3m", "task": "T2V"}, r"data\.u\.task=T2V: cc3m makes T2I, I2T"),
        ({"task": "T2V"}, r"data\.u\.task=T2V: a `pairs` folder names its tasks"),
        ({"format": "webvid", "columns": {"video": "{a"}}, r"data\.u\.columns\.video='\{a': write a column"),
        ({"format": "msmarco", "drop_repeated": True}, r"data\.u\.drop_repeated: msmarco has no captions"),
        ({"minimum": {"x": 1.0}}, r"data\.u\.minimum: pairs has no columns"),
    ],
)
def test_options_that_a_format_does_not_have_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataSetConfig(**{"name": "u", "uri": "x"} | options)


@pytest.mark.parametrize(
    ("form", "uri", "options", "message"),
    [
        ("cirr", "q.jsonl", {"pool": "no.jsonl"}, r"data\.d\.pool=.*no\.jsonl: no such file"),
        ("laion", "*.parquet", {}, r"data\.d\.uri=.*\*\.parquet: no file matches"),
        ("imagenet", "q.jsonl", {"pool": "q.jsonl"}, r"data\.d\.uri=.*: no such folder of class folders"),
        ("hotpotqa", "q.jsonl", {}, r"no .*corpus\.jsonl beside it"),
    ],
)
def test_missing_files_are_found_before_training(
    form: str, uri: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "q.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=message):
        check_sources([config_of(tmp_path, form, uri, options)])


# arXiv:2510.27571, Table 6: task, pairs for the 3B model, hard negatives, and batch size per GPU.
TABLE_6 = """
MSMARCO T2T 300000 2 64
HotpotQA T2T 69000 1 64
WebQA-text T2T 11000 1 32
CIRR TI2I 16000 1 32
Fashion200K T2I 4000 1 32
Nights I2I 13000 1 32
OVEN-it TI2TI 20000 1 64
OVEN-t TI2T 20000 1 64
VisualNews T2I 40000 1 64
EDIS T2TI 12000 1 32
FashionIQ TI2I 4000 1 32
MSCOCO I2T 4000 1 32
REMUQ TI2T 5000 1 32
WebQA-image T2TI 12000 1 32
LLAVA TI2T 20000 1 64
EVQA TI2TI 20000 1 64
CC3M-t2i T2I 200000 3 32
CC3M-i2t I2T 100000 2 64
Laion-t2i T2I 300000 3 32
Laion-i2t I2T 200000 2 64
ImageNet I2T 100000 2 32
VL3-Syn7M-short-t2i T2I 300000 3 32
VL3-Syn7M-short-i2t I2T 100000 2 64
VL3-Syn7M-detailed-t2i T2I 200000 3 32
VL3-Syn7M-detailed-i2t I2T 100000 2 64
VISTA-i TI2I 100000 2 32
VISTA-ti T2TI 20000 1 64
VAST T2V 1600000 0 32
InternVid-FLT T2V 1700000 0 32
PE-Video T2V 104000 1 64
WebVid T2V 5400000 0 32
"""


def test_the_recipe_of_the_whole_mixture_has_the_figures_of_the_paper() -> None:
    config = load_config(TrainingJobConfig, ["--config", "gve-3b-full.yaml"], prog="train.py")
    *public, uvrd = config.data
    listed = [
        f"{entry.name} {task_of(entry).value} {entry.sample} {entry.negatives} {entry.batch_size}"
        for entry in public
    ]
    assert [line.lower() for line in listed] == TABLE_6.lower().strip().splitlines()
    assert (uvrd.name, uvrd.format) == ("uvrd", "pairs")
    instructions = [entry.instruction for entry in public]
    assert all(instructions)
    assert len(set(instructions)) == len(instructions)
    plain = load_config(TrainingJobConfig, ["--config", "gve-3b.yaml"], prog="train.py")
    assert replace(config, data=plain.data, output=plain.output) == plain

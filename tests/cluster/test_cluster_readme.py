"""cluster/README.md: its commands, and those of the project's README; what it says is missing; its arithmetic."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gve_ray.config import SynthesisConfig, load_config
from gve_ray.evaluation.data.uvrb import UVRB
from tests.cluster.files import CLUSTER, IN_IMAGE, JOBS, README, ROOT, job_of, kuberay_job, ray_options
from tests.s3 import S3Server


def commands(blocks: str) -> list[list[str]]:
    """Words of every command in it, those in $( ) and behind | too, without their assignments."""
    text = blocks.replace("\\\n", " ").replace("$PWD", "/here")
    inner = re.findall(r"\$\(([^)]*)\)", text)
    found = []
    for line in [*re.sub(r"\$\([^)]*\)", "value", text).splitlines(), *inner]:
        parts: list[list[str]] = [[]]
        for word in shlex.split(line, comments=True):
            if word == "|":
                parts.append([])
            elif parts[-1] or not (word == "export" or re.match(r"[A-Z_]+=", word)):
                parts[-1].append(word)
        found += [words for words in parts if words]
    return found


def front_commands() -> list[list[str]]:
    """Of the project's README: lines that begin with a program of ours or of Ray's; other lines show other things."""
    blocks = "\n".join(re.findall(r"(?ms)^```\w*\n(.*?)^```", (ROOT / "README.md").read_text())).replace(
        "\\\n", " "
    )
    return commands("\n".join(re.findall(r"(?m)^(?:gve|ray|serve|make) .*$", blocks)))


COMMANDS = commands("\n".join(re.findall(r"(?ms)^```sh\n(.*?)^```", README)))
FRONT = front_commands()
OTHERS = {"export", "umask", "mkdir", "openssl", ".", "python3.11", "helm", "prometheus", "grafana"}


@pytest.mark.parametrize("words", [*COMMANDS, *FRONT], ids=lambda words: " ".join(words)[:60])
def test_readme_commands(words: list[str]) -> None:
    """Programs and options are known to who would read them, files are there. A new program needs a line here."""
    program = words[0]
    if program in ("ray", "serve"):
        found = ray_options(words)
        if "cluster_config_file" in found:
            assert (ROOT / found["cluster_config_file"]).is_file()
        if words[1] == "exec":
            assert ray_options(shlex.split(found["cmd"]))
            assert (ROOT / shlex.split(found["cmd"])[-1].removeprefix(IN_IMAGE)).is_file()
        if words[1:3] == ["job", "submit"]:
            assert job_of(found["entrypoint"]) is not None
    elif program == "gve" and words[1] == "search":
        done = subprocess.run([sys.executable, "-m", "gve_ray.cli", "search", "--help"], capture_output=True)
        assert all(option.encode() in done.stdout for option in words if option.startswith("--"))
    elif program == "gve":
        assert job_of(words) is not None
    elif program == "make":
        assert re.search(rf"(?m)^{words[1]}:", (ROOT / "Makefile").read_text())
    elif program == "pip":
        files = [words[i + 1] for i, word in enumerate(words) if word in ("--requirement", "--editable")]
        assert files
        assert all((ROOT / file).exists() for file in files)
        assert "--no-deps" in words
    elif program == "docker":
        files = [words[i + 1] for i, word in enumerate(words) if word == "--file"]
        assert all((ROOT / file).is_file() for file in files)
        if words[1] == "run":
            assert job_of(words[next(i for i, word in enumerate(words) if word == "gve") :]) is not None
    elif program == "kubectl":
        files = [words[i + 1] for i, word in enumerate(words) if word == "--filename"]
        assert all((ROOT / file).is_file() for file in files)
        assert "apply" not in words or files
    else:
        assert program in OTHERS, program


def test_commands_are_found() -> None:
    assert {"gve", "make", "ray"} <= {words[0] for words in FRONT}
    assert {"docker", "gve", "helm", "kubectl", "make", "pip", "ray"} <= {words[0] for words in COMMANDS}
    assert {words[1] for words in COMMANDS if words[0] == "gve"} >= set(JOBS) | {"doctor", "search"}


def test_readme_commands_that_can_run_here_do(tmp_path: Path) -> None:
    """Those that print a config, in the folder and by the program that README means."""
    printing = [words for words in COMMANDS if "--print_config" in words]
    assert {words[1] for words in printing} == set(JOBS)
    for words in printing:
        done = subprocess.run(
            [sys.executable, "-m", "gve_ray.cli", *words[1:]],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        printed = tmp_path / "printed.yaml"
        printed.write_text(done.stdout)
        kind = JOBS[words[1]][0]
        assert load_config(kind, ["--config", str(printed)]) == load_config(kind, words[2:-1])


def test_readme_names_all_that_is_to_be_filled_in() -> None:
    """CAPITALS in values of the YAML files, and no others."""
    named = set(re.findall(r"`([A-Z_]{4,})`", README))
    for path in CLUSTER.rglob("*.yaml"):
        text = re.sub(r"#.*", "", path.read_text())
        found = set(re.findall(r"\b[A-Z]+_(?:ID|PROFILE|CLASS)\b|\bREGISTRY\b", text))
        assert found <= named, path


def test_readme_tells_what_does_not_work() -> None:
    """Should it work one day, README has to say so."""
    assert kuberay_job("train").resources.timeout_s == 7200


def test_readme_tells_where_storage_may_be() -> None:
    for job in ("synthesize", "train", "evaluate", "index"):
        assert replace(kuberay_job(job), output="s3://bucket/out").output == "s3://bucket/out"
    names = [name for name in S3Server().environment if name != "AWS_EC2_METADATA_DISABLED"]
    assert [name for name in names if f"`{name}`" not in README] == []


def rows(below: str) -> dict[str, list[str]]:
    """Cells by first cell of README's table below a sentence."""
    table = README[README.index(below) :].split("\n\n", 1)[1].partition("\n\n")[0]
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()[2:]]
    return {cells[0]: cells[1:] for cells in lines}


def number(text: str) -> float:
    found = re.match(r"[\d,.]+", text)
    assert found, text
    return float(found[0].replace(",", ""))


def test_readme_arithmetic() -> None:
    """The tables follow from the figures a video, and those from what was measured."""
    embed_3b, embed_7b, train_3b = 52.0, 30.0, 20.0  # videos/s; the 7B by its share of the FLOPs
    table_7 = SynthesisConfig(
        input="x", output="y", captioner=kuberay_job("synthesize").captioner
    ).assemble.quotas
    # Videos of a pair: target, reference clip or query, and one negative of T2V, TI2V, TV2V; a picture is 1/8.
    seen = {"T2T": 0, "T2I": 1 / 8, "T2V": 2, "TI2V": 2 + 1 / 8, "TV2V": 3, "I2V": 1 + 1 / 8, "V2V": 2}
    passes = sum(table_7[task] * seen[task] for task in table_7) / table_7["T2V"]
    assert passes == pytest.approx(2.70, abs=0.005)
    segment = 23e3 + 2 * 4 * 2048
    a_video = {
        "synthesis, CPU": 2.05,
        "synthesis, GPU": 1 / embed_3b + (3600 + 1200 + 930) / 830 / embed_7b,
        "synthesis, disk": 2 * 0.66,
        "training, GPU": 3 * passes / train_3b,
        "mining, one GPU of one rank": 1 / embed_7b + 2 / embed_3b,
        "indexing, CPU": 2 * 2.05,
        "indexing, GPU": 2 / embed_3b,
        "indexing, disk": 2 * segment / 1e3,
    }
    told = {name: number(cells[-1]) for name, cells in rows("A video, then:").items()}
    assert told == pytest.approx(a_video, rel=0.01)

    sizes = (10_000, 1_550_000, 100_000_000)
    units = {"CPU": 3600, "GPU": 3600, "disk": 1e3, "one GPU of one rank": 3600}  # seconds to hours, MB to GB
    for name, cells in rows("times the number of videos:").items():
        what = (
            "mining, one GPU of one rank" if name.startswith("mining") else re.sub("(-hours|, GB)$", "", name)
        )
        unit = 1e6 if what == "indexing, disk" else units[what.partition(", ")[2]]  # kB to GB
        for cell, size in zip(cells, sizes, strict=True):
            assert number(cell) == pytest.approx(told[what] * size / unit, rel=0.01, abs=0.01), (name, size)

    total = rows("times the number of videos:")
    machines = rows("and on machines:")
    for i in range(3):
        gpus, cores = (number(machines[name][i]) for name in ("GPUs (H100)", "CPU cores for decoding"))
        decode, caption = machines["synthesis, hours: CPU part + GPU part"][i].split(" + ")
        hours = {
            "decode": (number(decode), number(total["synthesis, CPU-hours"][i]) / cores),
            "caption": (number(caption), number(total["synthesis, GPU-hours"][i]) / gpus),
            "train": (number(machines["training, hours, without mining"][i]),
                      number(total["training, GPU-hours"][i]) / gpus),
            "index": (number(machines["indexing, hours: the longer part"][i]),
                      number(total["indexing, CPU-hours"][i]) / cores),
        }  # fmt: skip
        for what, (said, is_so) in hours.items():
            assert said == pytest.approx(is_so, abs=0.051), (what, i)
        memory = number(machines["memory of a FAISS index, GB (2 x 2,048 floats a video)"][i])
        assert memory == pytest.approx(2 * 2048 * 4 * sizes[i] / 1e9, rel=0.03)


def test_readme_projection() -> None:
    """Hours of each stage on N GPUs and 16 cores each; stars are where bookkeeping takes longer."""
    table = rows("Its projection of the 1.55 M, in hours")
    videos = 1_550_000
    for i, gpus in enumerate((8, 32, 64, 512)):
        hours = {
            "integrity": max(videos * 2.05 / (16 * gpus), 322 + videos * (1 / 16 - 1 / 256) / 51) / 3600,
            "consistency": 1_240_905 / 52 / gpus / 3600,
            "captions": 1_021_704 * 0.230 / gpus / 3600,
            "training": videos * 0.405 / gpus / 3600,
        }
        told = {name.partition(":")[0]: cells[i] for name, cells in table.items()}
        for stage, value in hours.items():
            if stage != "consistency" or "*" not in told[stage]:
                assert number(told[stage]) == pytest.approx(value, abs=0.051), (stage, gpus)
        parts = ("integrity", "consistency", "captions", "the driver alone")
        assert number(told["synthesis"]) == pytest.approx(sum(number(told[one]) for one in parts), abs=0.11)


def test_readme_figure_of_uvrb() -> None:
    """At most so many videos, were none shared: corpora, ten candidates for each composed query, query videos."""
    videos = sum(one.n_queries * one.n_corpus if one.candidates else one.n_corpus for one in UVRB.values())
    videos += sum(one.n_queries for one in UVRB.values() if "video" in one.modality)
    assert videos <= 44_000
    assert "at most 44,000 videos, 44,000 / 52 s = 0.24 GPU-hours" in README

"""The commands in docs/cluster.md and in the project's README are valid."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from gve_ray import cli
from tests.cluster.files import GUIDE, IN_IMAGE, JOBS, ROOT, job_of, kuberay_job, ray_options


def commands(blocks: str) -> list[list[str]]:
    """Return the words of every command, including those in $( ) and after |, without variable
    assignments.
    """
    text = blocks.replace("\\\n", " ").replace("$PWD", "/here")
    inner = re.findall(r"\$\(([^)]*)\)", text)
    result = []
    for line in [*re.sub(r"\$\([^)]*\)", "value", text).splitlines(), *inner]:
        parts: list[list[str]] = [[]]
        for word in shlex.split(line, comments=True):
            if word == "|":
                parts.append([])
            elif parts[-1] or not (word == "export" or re.match(r"[A-Z_]+=", word)):
                parts[-1].append(word)
        result += [words for words in parts if words]
    return result


def front_commands() -> list[list[str]]:
    """Return the commands of the project's README that start with gve, make, or a program of Ray."""
    blocks = "\n".join(re.findall(r"(?ms)^```\w*\n(.*?)^```", (ROOT / "README.md").read_text())).replace(
        "\\\n", " "
    )
    return commands("\n".join(re.findall(r"(?m)^(?:gve|ray|serve|make) .*$", blocks)))


COMMANDS = commands("\n".join(re.findall(r"(?ms)^```sh\n(.*?)^```", GUIDE)))
FRONT = front_commands()
OTHER_PROGRAMS = {"export", "umask", "mkdir", "openssl", ".", "python3.11", "helm", "prometheus", "grafana"}


@pytest.mark.parametrize("words", [*COMMANDS, *FRONT], ids=lambda words: " ".join(words)[:60])
def test_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Programs accept their options, and files exist. Add a branch here for a new program."""
    program = words[0]
    if program in ("ray", "serve"):
        options = ray_options(words)
        if "cluster_config_file" in options:
            assert (ROOT / options["cluster_config_file"]).is_file()
        if words[1] == "exec":
            assert ray_options(shlex.split(options["cmd"]))
            assert (ROOT / shlex.split(options["cmd"])[-1].removeprefix(IN_IMAGE)).is_file()
        if words[1:3] == ["job", "submit"]:
            assert job_of(options["entrypoint"]) is not None
    elif program == "gve" and words[1] == "search":
        with pytest.raises(SystemExit, match="0"):
            cli.main(["search", "--help"])
        printed = capsys.readouterr().out
        assert all(option in printed for option in words if option.startswith("--"))
    elif program == "gve":
        assert words[1] == "--help" or job_of(words) is not None
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
        assert program in OTHER_PROGRAMS, program


def test_commands_are_extracted() -> None:
    assert {"gve", "make", "ray"} <= {words[0] for words in FRONT}
    assert {"docker", "gve", "helm", "kubectl", "make", "pip", "ray"} <= {words[0] for words in COMMANDS}
    assert {words[1] for words in COMMANDS if words[0] == "gve"} >= set(JOBS) | {"doctor", "search"}


def test_printed_configs_can_be_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run the commands with --print_config; the printed config is the one that the command
    describes.
    """
    print_commands = [words for words in COMMANDS if "--print_config" in words]
    assert {words[1] for words in print_commands} == set(JOBS)
    for words in print_commands:
        with pytest.raises(SystemExit, match="0"):
            cli.main(words[1:])
        printed = tmp_path / "printed.yaml"
        printed.write_text(capsys.readouterr().out)
        read = JOBS[words[1]].read_config
        assert read(["--config", str(printed)], prog="gve") == read(words[2:-1], prog="gve")


@pytest.mark.parametrize("job", ["synthesize", "train", "evaluate", "index"])
def test_jobs_can_write_to_a_bucket(job: str) -> None:
    assert replace(kuberay_job(job), output="s3://bucket/out").output == "s3://bucket/out"

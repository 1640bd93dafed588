"""Every shell example in the documentation is valid: options are those that the jobs take, and files exist.

The search commands are also run, against a real service, by tests/serving/test_examples.py; the chain
of all jobs by tests/integration/test_documentation.py.
"""

import re
import subprocess
import tomllib
from pathlib import PurePosixPath

import pytest

from gve_ray.registry import JOBS
from tests.documentation.examples import ROOT, Example, commands, examples

# Programs whose arguments are not checked beyond the files they name.
TOOLS = {
    "cat",
    "cd",
    "curl",
    "docker",
    "grafana",
    "helm",
    "hf",
    "kubectl",
    "mkdir",
    "openssl",
    "prometheus",
    "ray",
    "tar",
    "umask",
    "vllm",
    ".",
}
OTHER_VERBS = ("search", "export", "mcp", "diagnose", "leaderboard", "models", "uvrb", "--help")
OUR_FOLDERS = ("cluster", "setup", "jobs", "examples", "benchmarks", "tools", "docs", "tests", ".ci")
SHELL = examples("sh")


def check_job(job: str, args: list[str]) -> None:
    if "--print_config" in args:
        with pytest.raises(SystemExit, match="0"):
            JOBS[job].read_config(args, prog=job)
    else:
        JOBS[job].read_config([arg for arg in args if arg != "--check"], prog=job)


def check_gve(args: list[str]) -> None:
    if args[0] == "doctor":
        args = args[1:]
    if args and args[0] in JOBS:
        check_job(args[0], args[1:])
    else:
        assert not args or args[0] in OTHER_VERBS, args


def check_pip(args: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for arg in args:
        for named in re.findall(r"^(?:\.|gve-ray)\[(.*)\]", arg):
            assert set(named.split(",")) <= set(extras), arg


def check_files(words: list[str]) -> None:
    """Check that each path of the repository that a command names exists."""
    for word in words:
        path = PurePosixPath(word.removeprefix("/opt/gve_ray/"))
        if not path.is_absolute() and len(path.parts) > 1 and path.parts[0] in OUR_FOLDERS:
            assert (ROOT / path).exists(), word


def check(words: list[str]) -> None:
    while words and re.match(r"\w+=", words[0]):
        words = words[1:]
    if not words or words[0] == "export":
        return
    check_files(words)
    program = PurePosixPath(words[0]).name or words[0]
    if program == "gve" or (program == "docker" and "gve" in words):  # the command of a container
        check_gve(words[words.index("gve") + 1 :])
    elif any(word.startswith(("/opt/gve_ray/jobs/", "jobs/")) for word in words):
        script = next(i for i, word in enumerate(words) if word.endswith(".py"))
        name = PurePosixPath(words[script]).stem
        if name in JOBS:
            check_job(name, words[script + 1 :])
    elif program == "make":
        subprocess.run(
            ["make", "--dry-run", "--always-make", *words[1:]], cwd=ROOT, check=True, capture_output=True
        )
    elif program == "pip":
        check_pip(words[1:])
    elif program.startswith("python"):
        assert words[1] == "-m" or (ROOT / words[1]).is_file(), words
    elif program == "run":
        assert words == [".ci/run"]
    else:
        assert program in TOOLS or program in ("pre-commit", "pytest"), words


@pytest.mark.parametrize("example", SHELL, ids=str)
def test_the_shell_accepts_it(example: Example) -> None:
    subprocess.run(["bash", "-n"], input=example.text, text=True, check=True)


@pytest.mark.parametrize("example", SHELL, ids=str)
def test_programs_options_and_files_exist(example: Example) -> None:
    for words in commands(example):
        check(words)


def test_there_are_examples_of_every_job() -> None:
    """A change of the fences' language must not silently empty this file."""
    words = {word for example in SHELL for command in commands(example) for word in command}
    assert set(JOBS) <= words
    assert "curl" in words


@pytest.mark.parametrize(
    "command",
    [
        "gve synthesize --config demo.yaml --input a --no_such_option 1",
        "gve serve --config no-such-recipe.yaml",
        "ray job submit -- python jobs/no_such_job.py --config demo.yaml",
        "kubectl apply --filename cluster/kuberay/no-such-file.yaml",
        "pip install 'gve-ray[no-such-extra]'",
        "make no-such-target",
        "no-such-program",
    ],
)
def test_a_wrong_command_is_found(command: str) -> None:
    with pytest.raises((AssertionError, SystemExit, subprocess.CalledProcessError)):
        check(commands(Example("test", 1, command))[0])

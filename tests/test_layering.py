"""Tests that imports go one way: down the layers below, from jobs and cli to the schema.

Imports are read from the source, so those inside functions count as well.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from gve_ray.registry import JOBS

ROOT = Path(__file__).resolve().parent.parent
# A package may import packages of lower layers, but none of its own layer except in SAME_LAYER_ALLOWED.
LAYERS = (
    {"jobs"},
    {"cli"},
    {"demo"},
    {"registry"},
    {"synthesis", "training", "indexing", "serving"},
    {"evaluation"},
    {"inputs"},
    {"preflight"},
    {"embedder", "search", "job", "report"},
    {"endpoint"},
    {"stage", "media"},
    {"store", "config"},
    {"console"},
    {"schema", "logs", "progress", "conventions"},
    {"errors", "malloc"},
)
SAME_LAYER_ALLOWED = ({"store", "config"},)
LEVEL = {package: level for level, layer in enumerate(reversed(LAYERS)) for package in layer}
SOURCES = sorted([*ROOT.glob("gve_ray/**/*.py"), *ROOT.glob("jobs/**/*.py")])


def module_of(path: Path) -> str:
    """Return the dotted name of a file: gve_ray.media.decode, or gve_ray.media.__init__ for a package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def package_of(module: str) -> str | None:
    """Return the package or top-level module of a name; None for gve_ray itself and for other libraries."""
    head, _, rest = module.partition(".")
    if head == "jobs":
        return "jobs"
    package = rest.partition(".")[0]
    return package if head == "gve_ray" and package not in ("", "__init__", "__version__") else None


def imported(source: str, module: str) -> list[str]:
    """Return every dotted name that a module imports; relative imports are made absolute."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*module.split(".")[: -node.level], *([base] if base else [])])
            # `from gve_ray import media` names the package only after `import`.
            names += [f"{base}.{alias.name}" for alias in node.names]
    return names


def violations(source: str, module: str) -> list[str]:
    """Return a message for each import of the module that the layers do not allow."""
    here = package_of(module)
    wrong = []
    for name in imported(source, module):
        there = package_of(name)
        if there is None or there == here:
            continue
        if here is None:
            wrong.append(f"{module} imports {name}: gve_ray/__init__.py must not import its packages")
        elif {here, there} - set(LEVEL):
            wrong.append(f"{module} imports {name}: add both packages to LAYERS")
        elif LEVEL[there] > LEVEL[here]:
            wrong.append(f"{module} imports {name}: {there} is in a higher layer than {here}")
        elif LEVEL[there] == LEVEL[here] and not any({here, there} <= pair for pair in SAME_LAYER_ALLOWED):
            wrong.append(f"{module} imports {name}: {there} is in the same layer as {here}")
    return wrong


def work_at_import(source: str) -> list[int]:
    """Return the numbers of the lines that do more than define names when the module is imported."""
    quiet = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    quiet += (
        (ast.Assign, ast.AnnAssign, ast.TypeAlias)
        if sys.version_info >= (3, 12)
        else (ast.Assign, ast.AnnAssign)
    )
    lines = []
    for node in ast.parse(source).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        guard = isinstance(node, ast.If) and ast.unparse(node.test) in (
            "__name__ == '__main__'",
            "TYPE_CHECKING",
        )
        if not (isinstance(node, quiet) or docstring or guard):
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_go_down(path: Path) -> None:
    assert violations(path.read_text(), module_of(path)) == []


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_nothing_runs_at_import(path: Path) -> None:
    assert work_at_import(path.read_text()) == []


@pytest.mark.parametrize(
    "module,source",
    [
        ("gve_ray.schema", "from gve_ray.store import Store"),
        ("gve_ray.media.decode", "from gve_ray import stage"),
        ("gve_ray.media.decode", "def f():\n    import gve_ray.embedder.model"),
        ("gve_ray.synthesis.questions", "from ..training.loss import info_nce"),
        ("gve_ray.synthesis.questions", "from gve_ray.demo.facts import parse"),
        ("gve_ray.demo.corpus", "import jobs.train"),
        ("gve_ray.demo.corpus", "from gve_ray.drawer import thing"),
        ("gve_ray.__init__", "from .schema import Item"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    "module,source",
    [
        ("jobs.train", "from gve_ray.cli import main\nfrom gve_ray.schema import Task"),
        ("gve_ray.demo.corpus", "from gve_ray.synthesis import prompts\nimport numpy as np"),
        (
            "gve_ray.media.decode",
            "from .limits import Limits\nfrom . import jpeg\nfrom ..schema import Frames",
        ),
        (
            "gve_ray.store.runfolder",
            "from gve_ray import __version__\nfrom gve_ray.config import fingerprint",
        ),
    ],
)
def test_an_allowed_import_passes(module: str, source: str) -> None:
    assert violations(source, module) == []


def test_work_at_import_is_found() -> None:
    source = '"""Words."""\nimport os\nHOME = os.sep\nos.makedirs("x")\nfor a in ():\n    b = a\n'
    assert work_at_import(source) == [4, 5]


def test_every_folder_of_code_is_a_package() -> None:
    folders = {path.parent for path in ROOT.glob("gve_ray/**/*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


ENGINES = ("ray", "torch", "transformers", "sklearn", "scipy", "torchvision", "vllm", "matplotlib")
# Imported one after the other, so the first that loads an engine is named.
LIGHT = (
    *("gve_ray.schema", "gve_ray.config", "gve_ray.media", "gve_ray.cli", "gve_ray.embedder"),
    *(name.partition(":")[0] for job in JOBS.values() for name in (job.needs, *job.alone.values(), job.run)),
    # The workers that decode, filter, cut or answer requests.
    *("gve_ray.stage.pool", "gve_ray.synthesis.ingest", "gve_ray.synthesis.shots", "gve_ray.indexing.probe"),
    *("gve_ray.indexing.embed", "gve_ray.serving.gateway", "gve_ray.serving.retriever"),
)


def engines_loaded(program: str, *arguments: str) -> str:
    """Return what a program prints that ends with the names of the engines that it has loaded."""
    program = f"import sys\ndef engines(): return sorted({ENGINES!r} & sys.modules.keys())\n{program}"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_light_modules_load_no_engine() -> None:
    """Processes that do not compute with an engine start quickly only if these modules load none."""
    program = """
from importlib import import_module
for name in sys.argv[1:]:
    import_module(name)
    if engines():
        sys.exit(print(name, *engines()))
"""
    assert engines_loaded(program, *LIGHT) == ""


def test_checks_before_a_job_load_no_engine() -> None:
    """What the driver of every job does before it connects to Ray, and the identity of the model."""
    program = """
from gve_ray.embedder.backends import identify, saved_settings
from gve_ray.preflight import check_models, size_pools
from gve_ray.registry import JOBS
for name, job in JOBS.items():
    config = job.read_config(["--config", "demo.yaml"], prog=name)
    needs = job.needs_of(config)
    if name in ("synthesize", "index"):  # the others need what earlier jobs write
        check_models(needs)
    assert all(pool.count for pool in size_pools(needs.workers, [{"CPU": 8.0, "memory": 64e9}])), name
    if name == "index":
        identify(config.model, saved_settings(config.model), on_gpu=False)
    if engines():
        sys.exit(print(name, *engines()))
"""
    assert engines_loaded(program) == ""


def test_the_embedder_is_still_found_in_its_package() -> None:
    program = """
import gve_ray.embedder
assert engines() == [], engines()
missing = [name for name in gve_ray.embedder.__all__ if getattr(gve_ray.embedder, name).__name__ != name]
from gve_ray.embedder import Embedder
print(missing, hasattr(gve_ray.embedder, "Nothing"), *{"torch"} & set(engines()))
"""
    assert engines_loaded(program) == "[] False torch"

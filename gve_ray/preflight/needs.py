"""The needs of a job as data: its workers, inputs, outputs and models. Each job declares them.

needs = Needs(job="index", workers=[...], inputs=[...], outputs={"output": "/shared/index"})
check_request(needs)      # needs no cluster
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gve_ray.endpoint import Endpoint
from gve_ray.job import PreflightError
from gve_ray.preflight.fit import Workers
from gve_ray.preflight.models import Embedder, check_endpoint
from gve_ray.preflight.storage import first_files

UPLOADED_FOLDER = "working_dir_files"  # Ray unpacks a job's --working-dir below a folder of this name
_SAMPLES = 3  # number of files of an input that every node reads


@dataclass(frozen=True, kw_only=True)
class Input:
    """A file or folder that the workers read.

    option: the config option that names it. uri: as the workers get it. list_files: returns URIs of
    its files, as the driver sees them, and raises PreflightError, OSError or ValueError; without
    it, the first files of the folder are taken.
    """

    option: str
    uri: str
    list_files: Callable[[], Sequence[str]] | None = None

    def sample(self) -> list[str]:
        """Return the first, middle and last file, or all files if there are no more than three."""
        files = first_files(self.uri, _SAMPLES) if self.list_files is None else list(self.list_files())
        return files if len(files) <= _SAMPLES else [files[0], files[len(files) // 2], files[-1]]


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What one job needs.

    paths: the paths in the config, as the user wrote them, by option. outputs: folders that the driver
    and all nodes write, by option. embedders: models whose saved settings must match the config.
    endpoints: those that workers ask, by config section. together: all pools of workers run at the same
    time, not one after the other. rules: any other check that needs no cluster; it raises
    PreflightError or ValueError.
    """

    job: str
    workers: Sequence[Workers]
    paths: Mapping[str, str] = field(default_factory=dict)
    inputs: Sequence[Input] = ()
    outputs: Mapping[str, str] = field(default_factory=dict)
    embedders: Sequence[Embedder] = ()
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    together: bool = False
    rules: Callable[[], object] = lambda: None


def check_request(needs: Needs) -> None:
    """Check what needs no cluster: paths, the rules of the job, and models. Raises PreflightError."""
    check_paths(needs)
    try:
        needs.rules()
    except ValueError as error:
        raise PreflightError(str(error)) from error
    check_models(needs)


def check_paths(needs: Needs) -> None:
    """Check that no path is inside a folder that Ray deletes with the job. Raises PreflightError."""
    for option, path in needs.paths.items():
        check_path(option, path)


def check_path(option: str, path: str) -> None:
    """Refuse a relative path inside a Ray job's uploaded working directory. Raises PreflightError."""
    here = Path.cwd()
    if UPLOADED_FOLDER in here.parts and "://" not in path and not Path(path).is_absolute():
        raise PreflightError(
            f"{option}={path!r}: relative to the job's uploaded copy of the working directory ({here}), "
            f'which is deleted with the job; give an absolute path or a URI, e.g. --{option} "$PWD/{path}"'
        )


def check_models(needs: Needs) -> None:
    """Check that weights are available, embedders match the config, and endpoints answer.

    Raises PreflightError.
    """
    for pool in needs.workers:
        for weights in pool.loads:
            weights.check()
    for embedder in needs.embedders:
        embedder.check()
    for section, endpoint in needs.endpoints.items():
        check_endpoint(section, endpoint)


def absolute(path: str) -> str:
    """Return a local path as an absolute one, and a URI without trailing slashes."""
    return path.rstrip("/") if "://" in path else str(Path(path).resolve())

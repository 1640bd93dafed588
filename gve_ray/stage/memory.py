"""Tell whether a worker's process was ended because its node had no memory left.

    process = this_process()           # kept by the stage's tracker
    ran_out_of_memory(process)         # asked by the process that replaces it

A node that runs out of memory ends processes in two ways: Ray's memory monitor ends workers before the memory is used
up, and records that; the kernel's out-of-memory killer only counts the processes that it has ended.
"""

from dataclasses import dataclass
from pathlib import Path

from gve_ray.logs import worker_log

_KERNEL_COUNTERS = Path("/proc/vmstat")


@dataclass(frozen=True, kw_only=True)
class WorkerProcess:
    """A process of a worker. id, node: Ray's, in hex. log: where its stderr goes.

    kernel_kills: processes that the kernel of its node had ended for lack of memory when this one started.
    """

    id: str
    node: str
    log: str
    kernel_kills: int


def this_process() -> WorkerProcess:
    """Describe this process, which is a worker of Ray."""
    import ray

    context = ray.get_runtime_context()
    return WorkerProcess(
        id=context.get_worker_id(), node=context.get_node_id(), log=worker_log(), kernel_kills=_kernel_kills()
    )


def ran_out_of_memory(ended: WorkerProcess) -> bool:
    """Return whether a process that has ended was ended for lack of memory.

    The kernel's count does not say which processes it has ended: another one may be meant if this one ended for a
    different reason on a node where memory was short as well.
    """
    import ray

    is_here = ended.node == ray.get_runtime_context().get_node_id()
    return (is_here and _kernel_kills() > ended.kernel_kills) or _ended_by_ray(ended)


def _ended_by_ray(ended: WorkerProcess) -> bool:
    import ray
    from ray._private.state import state
    from ray.core.generated.common_pb2 import WorkerExitType
    from ray.core.generated.gcs_pb2 import WorkerTableData

    data = state._connect_and_get_accessor().get_worker_info(ray.WorkerID(bytes.fromhex(ended.id)))
    return (
        data is not None and WorkerTableData.FromString(data).exit_type == WorkerExitType.NODE_OUT_OF_MEMORY
    )


def _kernel_kills() -> int:
    """Return how many processes this node's kernel has ended for lack of memory; 0 if it does not say."""
    try:
        counters = dict(line.split() for line in _KERNEL_COUNTERS.read_text().splitlines())
    except (OSError, ValueError):  # not on Linux
        return 0
    return int(counters.get("oom_kill", 0))

"""Make it possible to import a CUDA build of torchvision with a CPU build of torch.

PyPI has no CPU build of torchvision. The CUDA build cannot load its compiled operators with a CPU build of torch, and
`import torchvision` then fails because two of these operators are not defined. It is sufficient to define their
schemas: transformers' video processor uses only torchvision's tensor transforms, never its compiled operators.

`setup/environment.py` copies this file into the environment's site-packages, together with a `.pth` file that calls
`install()`. The hook is therefore active in every process of that environment, including those of Ray and vLLM. Until
torchvision is imported, it costs one string comparison per import, and it does not import torch.
"""

import sys

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries = []  # kept, because the schemas of a library are deleted with it


def install():
    """Put the finder first on `sys.meta_path`, unless it is there already."""
    if _TorchvisionFinder not in sys.meta_path:
        sys.meta_path.insert(0, _TorchvisionFinder)


class _TorchvisionFinder:
    """Finds torchvision as usual, and defines the operators just before its code runs."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != "torchvision":
            return None
        # Imported here, because every process loads this module when it starts.
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            run_module = spec.loader.exec_module

            def exec_module(module):
                _define_operators()
                run_module(module)

            # Many callers only check whether torchvision is installed; torch is imported only if they import it.
            spec.loader.exec_module = exec_module
        return spec


def _define_operators():
    if _libraries:
        return
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _libraries.append(library)

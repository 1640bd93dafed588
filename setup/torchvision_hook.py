"""Lets a CUDA build of torchvision be imported beside a CPU build of torch.

The registry has no CPU build of torchvision. Its CUDA wheel cannot load its compiled operators beside
CPU torch, and then `import torchvision` fails on two operators that it describes but nobody has
defined. Defining their schemas is enough: torchvision's tensor transforms are used (by transformers'
video processor), its compiled operators never.

`setup/environment.py` copies this file into the environment's site-packages, beside a `.pth` file that
calls `install()`: so it holds in every process of that environment, Ray's and vLLM's included. Until
something imports torchvision it costs one string comparison an import, and torch is not imported for it.
"""

import sys

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries = []  # a library's schemas vanish with it


def install():
    """Put the finder first on `sys.meta_path`, once."""
    if _TorchvisionFinder not in sys.meta_path:
        sys.meta_path.insert(0, _TorchvisionFinder)


class _TorchvisionFinder:
    """Finds torchvision as usual, and has the operators defined just before its code runs."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != "torchvision":
            return None
        # Imported here: this module is loaded at the start of every process.
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            run_module = spec.loader.exec_module

            def exec_module(module):
                _define_operators()
                run_module(module)

            # Many only ask for the spec, to see whether torchvision is there: torch waits for the import.
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

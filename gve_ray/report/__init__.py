"""The common parts of the HTML reports of all jobs: page frame, embedded pictures, drawings."""

from gve_ray.report.drawing import new_figure, png, svg
from gve_ray.report.page import picture, render

__all__ = ["new_figure", "picture", "png", "render", "svg"]

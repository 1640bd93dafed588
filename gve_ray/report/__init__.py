"""What the pages of all jobs share: their frame and colours, pictures inside the file, drawings."""

from gve_ray.report.drawing import new_figure, png, svg
from gve_ray.report.page import picture, render

__all__ = ["new_figure", "picture", "png", "render", "svg"]

"""Vectors -> neighbours."""

from gve_ray.search.exact import NONE, exact, within

__all__ = ["NONE", "exact", "within"]

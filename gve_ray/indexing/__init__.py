"""A folder of videos -> segments, their vectors, and an index that is searched (gve_ray.search.library)."""

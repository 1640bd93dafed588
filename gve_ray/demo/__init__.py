"""The method of arXiv:2510.27571 in miniature: rendered videos of moving shapes, whose content is
known exactly, and a tiny model that describes them.
"""

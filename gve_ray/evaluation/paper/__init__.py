"""Comparison with the paper (arXiv:2510.27571): its table, its claims, and a diagnosis."""

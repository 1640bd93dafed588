"""Comparison with the paper (arXiv:2510.27571): its published table, its claims, and a diagnosis of
result tables.
"""

"""Evaluation data: data sets in their published layouts, checked item by item, and the UVRB
benchmark.
"""

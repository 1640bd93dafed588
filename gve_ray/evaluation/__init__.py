"""Evaluation: retrieval sets in, scores by data set and ability out, with the doubt that belongs to
them.
"""

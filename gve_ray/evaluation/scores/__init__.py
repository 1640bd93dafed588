"""Scores: exact ranking, retrieval metrics, their confidence intervals, and abilities."""

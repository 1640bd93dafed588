"""Evaluation: from retrieval sets to scores by data set and ability, with their uncertainty."""

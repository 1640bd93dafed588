"""Evaluation data: data sets in their published layouts, and the UVRB benchmark."""

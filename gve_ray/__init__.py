"""Universal video retrieval on Ray: synthesis, training, evaluation and serving of the GVE embedder."""

__version__ = "0.1.0"

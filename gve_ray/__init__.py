"""Universal video retrieval on Ray: raw videos to training pairs, and the GVE embedder."""

__version__ = "0.1.0"

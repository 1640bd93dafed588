"""What jobs are given, read and checked before any work: videos, and the model."""

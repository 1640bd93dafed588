"""Read and check the inputs of jobs before any work: tables, manifests, folders of videos, and models."""

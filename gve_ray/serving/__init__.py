"""The models and indexes over HTTP, on Ray Serve."""

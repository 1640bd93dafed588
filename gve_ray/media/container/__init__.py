"""Checks on the bytes of a container: is the file complete, damaged or encrypted."""

"""Readers of the forms of files in which data sets of training pairs are published, one function for each form."""

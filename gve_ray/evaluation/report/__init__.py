"""The HTML report of an evaluation: charts, tables, example queries and notes."""

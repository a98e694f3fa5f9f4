"""A folder for each section of the paper: run computes the table, figures draws it, claims judges it."""

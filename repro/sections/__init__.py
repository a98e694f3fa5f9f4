"""One module a section of the paper: run(scale) -> table, figures(table) -> plotly; the notebooks only call these."""

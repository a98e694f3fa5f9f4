"""The one import that all notebooks share besides their section: the setting, stored tables, the paper's numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from repro.base.parameters import settle
from repro.base.theme import use_theme
from repro.sections.scales import Scale, scale_of
from repro.sections.tables import (
    COMPARE,
    SWEEP,
    load_table,
    need_table,
    other_models,
    others,
    paper_numbers,
    side_by_side,
    source,
)
from repro.sections.types import DataFrame, Series


def whole(column: Series) -> bool:
    """Does a column of floats have no fraction anywhere, as the means of equal counts?"""
    return column.dtype.kind == "f" and bool((column.dropna() % 1 == 0).all())


def dashes(table: DataFrame) -> str:
    """A table as Jupyter shows it: a dash for what was not measured (pandas writes NaN), counts as integers."""
    import pandas as pd

    most, fewest, columns = (pd.get_option(f"display.{name}") for name in ("max_rows", "min_rows", "max_columns"))
    return table.to_html(
        na_rep="–",
        notebook=True,
        max_rows=fewest if most and len(table) > most else most,
        max_cols=columns,
        show_dimensions="truncate",
        formatters={name: "{:.0f}".format for name, column in table.items() if whole(column)},
    )


def set_up(name: str, variables: dict[str, Any]) -> Scale:
    """The scale that the parameters of a notebook, among its variables, ask for; figures look like the book's after.

    Parameters become what the notebook's own cell declares, however papermill passed them. Raises BadInput.
    """
    import pandas as pd
    from IPython import get_ipython

    use_theme()
    if (shell := get_ipython()) is not None:
        shell.display_formatter.formatters["text/html"].for_type(pd.DataFrame, dashes)
    settle(name, variables)
    return scale_of(variables.get("scale", "tiny"), seed=variables.get("seed"), **variables.get("changes", {}))


def stored(scale: str, *names: str) -> list[DataFrame]:
    """Tables of a scale; those of tiny, with a note, where the first has not been computed. BadInput: no table."""
    from IPython.display import Markdown, display

    if load_table(names[0], scale) is None:
        display(Markdown(f"No table `{names[0]}` of scale {scale} has been computed yet. Below: tiny."))
        scale = "tiny"
    return [need_table(name, scale) for name in names]


def paragraphs(findings: Callable[..., str], *tables: Mapping[str, DataFrame]) -> Any:
    """Sentences about the tables of each language model, a paragraph each; the models are those of the last mapping."""
    from IPython.display import Markdown

    texts = (f"**{model}.** {findings(*(by_model[model] for by_model in tables))}" for model in tables[-1])
    return Markdown("\n\n".join(texts))


def show(*values: Any) -> None:
    """Display tables and figures as they are, sentences as markdown; an empty sentence is nothing."""
    from IPython.display import Markdown, display

    display(
        *(
            Markdown(value) if isinstance(value, str) else value
            for value in values
            if not (isinstance(value, str) and not value)
        )
    )

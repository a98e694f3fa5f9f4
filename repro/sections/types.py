"""Types for annotations only: pandas and plotly are imported where a table or a figure is made, not with a section."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame, Series
    from plotly.graph_objects import Figure
else:
    DataFrame = Series = Figure = Any

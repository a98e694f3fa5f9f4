"""PNG files of figures without a browser: pixels where the axes say, nothing cut off, names as text."""

import numpy as np
import pytest

from repro.book import still

imread = pytest.importorskip("matplotlib.image").imread
go = pytest.importorskip("plotly.graph_objects")

COLORS = {"#ff0000": (1, 0, 0), "#00ff00": (0, 1, 0), "#0000ff": (0, 0, 1)}


def drawn(figure, path):
    still.write(figure, path, scale=1)
    return imread(path)[..., :3]


def center(pixels, color):
    """(x from the left, y from below) of the middle of all pixels of a colour."""
    rows, columns = np.nonzero((np.abs(pixels - color) < 0.02).all(-1))
    assert len(rows), "a marker is missing"
    return columns.mean(), len(pixels) - rows.mean()


def points(x, y):
    marks = zip(COLORS, x, y)
    return [go.Scatter(x=[a], y=[b], mode="markers", marker={"color": c, "size": 14}, name=c) for c, a, b in marks]


def test_a_logarithmic_axis_and_a_linear_one_put_markers_where_they_belong(tmp_path):
    figure = go.Figure(points([1, 10, 1000], [0.0, 1.0, 4.0]))
    figure.update_layout(width=700, height=500, showlegend=False).update_xaxes(type="log")
    (x0, y0), (x1, y1), (x2, y2) = (center(drawn(figure, tmp_path / "a.png"), c) for c in COLORS.values())
    assert (x2 - x0) / (x1 - x0) == pytest.approx(3, rel=0.02)
    assert (y2 - y0) / (y1 - y0) == pytest.approx(4, rel=0.02)


def test_an_error_bar_reaches_as_far_as_it_says(tmp_path):
    """From -3 to 1 around 0, beside markers at -3 and 1 that show where these are."""
    bar = {"type": "data", "symmetric": False, "array": [1.0], "arrayminus": [3.0]}
    trace = go.Scatter(x=[0], y=[0], mode="markers", marker={"color": "#ff0000", "size": 1}, error_y=bar)
    marks = points([2, 2, 2], [0, -3, 1])[1:]
    pixels = drawn(go.Figure([trace, *marks]).update_layout(showlegend=False), tmp_path / "a.png")
    rows, _ = np.nonzero((np.abs(pixels - (1, 0, 0)) < 0.3).all(-1))
    low, high = (center(pixels, color)[1] for color in list(COLORS.values())[1:])
    assert len(pixels) - rows.max() == pytest.approx(low, abs=2)
    assert len(pixels) - rows.min() == pytest.approx(high, abs=2)


def test_panels_share_their_axis_and_every_word_is_inside(tmp_path):
    from plotly.subplots import make_subplots

    figure = make_subplots(2, 2, shared_yaxes="all", subplot_titles=["$x_1$ <b>", "b", "c", "d"])
    for i, (trace, place) in enumerate(zip(points([1, 1, 1], [1, 1, 1]), ((1, 1), (1, 2), (2, 1)))):
        figure.add_trace(trace, *place)
        figure.add_trace(go.Scatter(x=[0, 2], y=[0, 5 * i + 2], line={"color": "#888888"}, showlegend=False), *place)
    figure.update_layout(width=700, height=600, title_text="A title", legend_title_text="of these")
    figure.update_yaxes(title_text="a long name of an axis", col=1)
    pixels = drawn(figure, tmp_path / "a.png")
    markers = pixels[130:]  # without the legend
    (_, y0), (_, y1), (_, y2) = (center(markers, c) for c in COLORS.values())
    assert y0 == pytest.approx(y1, abs=1) and y0 > y2 + 100
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (edge == 1).all()


def test_a_trace_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not heatmap"):
        still.write(go.Figure(go.Heatmap(z=[[1]])), tmp_path / "a.png")

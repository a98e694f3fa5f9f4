"""Claims that the probes test: splitting and absorption fall under refinement, on average over labels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from repro.sections.effects import Tables, changes, listed, mean_over, standard_errors
from repro.sections.shown import answered, shown
from repro.sections.verdict import Claim, Finding


def over_labels(metric: str, mode: str) -> Callable[[Tables], Finding]:
    """The test whether a mode lowers a metric at matched L0: mean over labels, SAE by SAE.

    Documents are shared by all SAEs; their share of the error is the mean over labels of what the table over resampled
    documents says, as if labels had it in common.
    """

    def test(tables: Tables) -> Finding:
        table = tables["probes"]
        raw = "absorption" if metric == "excess" else metric
        released = mean_over(changes(tables["comparison"], mode, raw, "as_released")) if "comparison" in tables else "–"
        means = tables["probe_means"]
        means = means[(means["metric"] == metric) & (means["mode"] == mode)].dropna(subset=["change_low"])
        by_label = standard_errors(means.rename(columns={"change_low": "low", "change_high": "high"}))
        shared = float(by_label.mean()) if len(means) else 0.0
        why = f"by label: {listed(dict(zip(means['label'], means['change'])))}"
        if metric == "excess":
            beside = {name: mean_over(changes(table, mode, name)) for name in ("absorption", "absorption_null")}
            why = f"{listed(beside)}; {why}"
        tokens = int(table["rows"].max()) if "rows" in table else 0
        return Finding(mean_over(changes(table, mode, metric), shared, tokens), released, why)

    return test


_lowers = partial(Claim, section="54_probes", claimed="falls", needs=("probes", "probe_means"), uses=("comparison",))
CLAIMS = [
    _lowers(
        id="C5j",
        statement="ΔF1 falls under 30 steps, mean over held-out labels",
        paper="0.053 → 0.036",
        metric="dF1",
        quantity="ΔF1 under 30 steps",
        test=over_labels("dF1", "semi"),
    ),
    _lowers(
        id="C5k",
        statement="Absorption beyond chance falls under 30 steps, mean over held-out labels",
        paper="0.225 → 0.134",
        metric="excess",
        quantity="absorption − chance under 30 steps",
        test=over_labels("excess", "semi"),
    ),
]

answers, verdicts = partial(answered, CLAIMS), partial(shown, CLAIMS)
"""What is found, in a sentence a claim, and the verdicts on all parts, to be shown in the notebook."""

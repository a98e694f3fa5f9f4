"""Names that tables, files and figures share: protocols, modes, and the metrics' labels with their units."""

from __future__ import annotations

PROTOCOLS = ("as_released", "corrected")
MODES = ("amortized", "semi", "non")
CONTROLS = ("random_dictionary", "random_encoder", "pca", "encoder_refit", "pursuit")
"""Controls that `evaluate` computes like modes, corrected protocol only (`evaluate.modes`)."""

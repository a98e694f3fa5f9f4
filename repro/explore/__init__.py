"""The explorer: one SAE, one text, and what inference does to every token; without widgets, with them, and on paper."""

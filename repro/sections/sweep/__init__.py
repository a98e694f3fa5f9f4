"""The semi sweep: metrics by number of steps."""

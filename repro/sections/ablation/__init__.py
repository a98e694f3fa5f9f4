"""From as_released to corrected, one rule at a time."""

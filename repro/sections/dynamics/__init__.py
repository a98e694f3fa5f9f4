"""Section 4.3: metrics and gap along training."""

"""Section 6: LocA-SAE beside a standard SAE."""

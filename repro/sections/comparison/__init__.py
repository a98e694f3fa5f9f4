"""Section 5: encoder, semi-amortized and optimum compared."""

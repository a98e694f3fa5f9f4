"""A living reproduction of "The Price of Amortized Inference in Sparse Autoencoders" (ICLR 2026)."""

__version__ = "0.1.0"

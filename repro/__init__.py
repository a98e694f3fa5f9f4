"""A living reproduction of "The Price of Amortized Inference in Sparse Autoencoders" (ICLR 2026)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repro.adapted import adapt

__version__ = "0.1.0"
__all__ = ["adapt"]


def __getattr__(name: str) -> Any:
    """`repro.adapt`, imported when it is asked for: `import repro` alone needs no torch."""
    if name == "adapt":
        from repro.adapted import adapt

        return adapt
    raise AttributeError(f"module 'repro' has no attribute '{name}'")

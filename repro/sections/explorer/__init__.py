"""The live explorer of tokens and latents, and its prepared examples for the book."""

from repro.sections.explorer.page import prepared
from repro.sections.explorer.sources import open_sources

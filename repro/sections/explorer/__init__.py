"""The live explorer of tokens and latents, and its copy for the book."""

from repro.sections.explorer.markup import latent_cards, summary_table, token_strip
from repro.sections.explorer.sources import EXAMPLES, open_sources
from repro.sections.explorer.static import lambda_figure, step_figure, token_figure

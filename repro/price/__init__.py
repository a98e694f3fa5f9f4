"""The price of one SAE's guess: error and loss of eight kinds of codes, the frontier, latents missed; as JSON and HTML.

`codes` how each kind is computed and what it costs · `measure` one pass over tokens · `frontier` error against L0 ·
`latents` dead, missed and worst · `run` all of it, piece by piece · `words` sentences · `page`, `charts` price.html
"""

from repro.price.run import PriceOptions, price

__all__ = ["PriceOptions", "price"]

"""From text through a language model to activations on disk, and rows of them."""

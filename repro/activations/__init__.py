"""Text, language models, and the activations on disk."""

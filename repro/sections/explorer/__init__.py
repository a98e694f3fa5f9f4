"""The live explorer, and its copy for the book."""

"""Training of several SAEs in one loop: recipe, losses of the variants, checkpoints."""

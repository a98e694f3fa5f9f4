"""Training: recipe and jobs, the losses of the variants, one loop for several SAEs, and LocA's phases."""

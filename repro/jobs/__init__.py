"""Many tasks in other processes: on this machine, on dask, on Slurm."""

"""launch=slurm: the batch script of a job, and what it does when its ranks end."""

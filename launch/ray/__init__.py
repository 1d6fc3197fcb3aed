"""launch=ray: the ranks of a job, or the work items of prepare, on a Ray cluster."""

"""The web side of a running service: pages of plugins, for the operator and for strangers, on the loop of all else."""

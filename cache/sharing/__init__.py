"""Several processes with one cache: leases, running jobs, patience, forks."""

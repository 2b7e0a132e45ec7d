"""Computing in process: torch and transformers are imported here and nowhere else."""

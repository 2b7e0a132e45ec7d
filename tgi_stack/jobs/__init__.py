"""The use cases: what is asked for each row and what its record says."""

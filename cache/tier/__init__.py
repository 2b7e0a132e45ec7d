"""A tier that a team shares behind the local cache, by the Redis protocol: it changes speed alone."""

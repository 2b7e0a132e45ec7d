"""The tier of the cache as the jobs and the commands use it."""

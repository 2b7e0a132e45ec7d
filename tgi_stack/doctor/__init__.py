"""What works here: this machine, and the endpoints."""

"""What runs where, worked out from what is asked and which GPUs are there."""

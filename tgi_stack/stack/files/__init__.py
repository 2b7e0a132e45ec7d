"""What is written under docker/ and read from there."""

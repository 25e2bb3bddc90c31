"""What is tied to what, and why a channel cannot go."""

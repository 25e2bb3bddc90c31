"""What becomes of every node when some units go."""

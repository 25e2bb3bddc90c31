"""Models measured against one another."""

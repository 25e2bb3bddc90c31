"""Seeded faults in the engine, and who notices them."""

"""Which channels stand and fall together, and what they cost."""

"""Random nets: written as module source from a table of kinds of statements, checked, and shrunk where they fail."""

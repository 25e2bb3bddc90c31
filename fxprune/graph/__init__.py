"""A model as a graph of operators."""

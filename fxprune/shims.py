"""Former home of what follows a graph's mode: graphs that were pickled from here still load."""

from fxprune.graph.shims import BatchNorm, Dropout

__all__ = ["BatchNorm", "Dropout"]

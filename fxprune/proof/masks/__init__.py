"""A proof that knows no rules: the dense model under masks against the slim one.

Nothing here may import the rules (``ops``, ``coupling``, ``resizing``, ``slimming``, ``labels``): it is told which indices of which
tensors stay, and works out by laws of its own what is left of every result.
"""

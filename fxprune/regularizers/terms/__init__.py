"""What norms are taken over and how they are shrunk: the slices of units in the parameters, proximal maps, AULM."""

"""The proof: two oracles say what a slim model must give, and neither may disagree with it."""

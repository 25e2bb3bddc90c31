"""The slim model: its tensors, its module or graph, its file."""

"""ONNX files: written, proved, counted, run."""

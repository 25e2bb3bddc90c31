"""What a training run learns from."""

"""What a training run is to do, as validated data."""

"""Training: images in memory or on disk, one or several processes, checkpoints, the loop over steps."""

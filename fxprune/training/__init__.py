"""Training: images in memory or on disk, one or several processes, checkpoints, the loop over steps."""

from fxprune.support.extras import need

need("training by recipes", "accelerate", "yaml")

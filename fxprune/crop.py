"""Former home of padded convolutions: modules that were pickled from here still load."""

from fxprune.slimming.crop import Conv1dBorder, Conv2dBorder, Conv3dBorder

__all__ = ["Conv1dBorder", "Conv2dBorder", "Conv3dBorder"]

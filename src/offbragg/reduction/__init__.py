"""From a stack of frames to an orientation, and to an intensity in reciprocal space."""

"""Pictures of peaks, planes and transitions."""

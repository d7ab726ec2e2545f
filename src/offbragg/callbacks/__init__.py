"""What listens to the documents of a run: the journal first, everything else after it."""

"""The prompt: names, magics, messages, kept metadata."""

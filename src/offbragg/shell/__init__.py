"""What people find at the prompt."""

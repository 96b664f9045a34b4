"""What edge-af writes and reads again: results, comparisons and histories, as dataclasses with their schemas."""

"""Files that edge-af writes and reads again: results, comparisons and histories, as dataclasses."""

"""Dataclasses for the files that edge-af writes and reads: results, comparisons and histories."""

"""Measuring exported networks side by side, each in a process of its own, and the results file."""

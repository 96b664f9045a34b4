"""Measurement of exported networks side by side, each in its own process, and the results file."""

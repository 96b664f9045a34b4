"""This machine: description, conditions, memory."""

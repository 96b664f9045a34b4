"""This machine and its state: device, conditions, memory."""

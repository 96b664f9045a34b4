"""Boards under QEMU: setup, instruction counts, and a latency model."""

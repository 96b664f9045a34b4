"""The version of edge-af."""

__version__ = "0.1.0"

"""Comparison of a candidate with its base, both measured side by side on this machine: is it slower, larger or worse?"""

"""Whether a candidate is slower, larger or worse than its base: both measured side by side, now, on this machine."""

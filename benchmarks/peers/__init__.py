"""Compare edge-af with the tools that people would use instead; see `benchmarks/README.md`."""

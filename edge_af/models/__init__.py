"""AttendFusion and FCLateFusion: their shapes and presets (no torch needed), and the networks (torch)."""

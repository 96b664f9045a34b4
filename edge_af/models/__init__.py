"""AttendFusion and FCLateFusion: configurations and presets, the networks (torch), and run folders."""

"""AttendFusion and FCLateFusion: shapes and presets, the networks (torch), and the run folder that training leaves."""

"""YouTube-8M TFRecords in, a prepared dataset out; the made-up data set."""

VISUAL_FEATURES = 1024
"""Length of a video's visual feature vector (`mean_rgb`)."""

AUDIO_FEATURES = 128
"""Length of a video's audio feature vector (`mean_audio`)."""

MOST_CLASSES = 65536
"""Labels are stored as uint16."""

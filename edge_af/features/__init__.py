"""Features of video files: decoding, log-mel spectrograms, and extractors that turn them into vectors."""

"""A trained network to ONNX and TFLite files, in FP32 and INT8, each checked before it is kept.

One graph is the source of every file, and one set of activation ranges, found on training videos, serves both formats.
"""

"""Export a trained network to ONNX and TFLite files, each checked before it is kept.

One graph is the source of every file, and one set of activation ranges serves both formats.
"""

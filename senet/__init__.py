"""Squeeze-and-excitation networks, trained on single labels and then streamed multi-label images."""

__version__ = "0.1.0"

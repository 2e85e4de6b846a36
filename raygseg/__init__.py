"""raygseg: part segmentation from ten labels, on Ray."""

__version__ = "0.1.0"

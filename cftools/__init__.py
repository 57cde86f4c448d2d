"""cftools keeps the right files on the right edge servers of a video-on-demand node."""

__version__ = "0.1.0"

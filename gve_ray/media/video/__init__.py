"""From a video file to checked frames: packets, timeline, and strict or sparse decoding."""

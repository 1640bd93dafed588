"""Filters on what the pictures of a video show: text, bars, blur, darkness, stills."""

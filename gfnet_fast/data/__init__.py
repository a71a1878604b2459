"""Map-style data sets of uint8 canvases and labels."""

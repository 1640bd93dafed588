"""Still pictures, folders of frames and animated WebP."""

"""V-SynFlow (paper section 4): raw videos with noisy captions in, UVRD training pairs out."""

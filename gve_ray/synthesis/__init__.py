"""V-SynFlow (arXiv:2510.27571, section 4): make UVRD training pairs from raw videos and noisy captions."""

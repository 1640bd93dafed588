"""Training: the Modality Pyramid curriculum over pairs, by contrast, on one rank or many."""

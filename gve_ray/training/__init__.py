"""Contrastive training of an embedder on pairs, with the Modality Pyramid curriculum, on one rank or many."""

"""Small media files of every kind, whose right answer is known from how they were made.

    python -m tests.media.matrix [--only TEXT] [--json FILE]     # the full form
    pytest tests/media/test_matrix.py                            # a short form, in the default tests

A `Film` is encoded with PyAV (films.py); its index or its packets are then changed byte by byte
(isobmff.py, matroska.py), and a `Case` says which frames must come out, when each is shown and
which way up (judge.py).
"""

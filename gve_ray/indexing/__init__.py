"""Index a folder of videos: split them into segments, embed these, and build a searchable index."""

"""The paper in miniature: a world of moving shapes whose true content is known, and a tiny model that sees it."""

"""How near two sets of images are."""

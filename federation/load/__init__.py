"""`fedpeg load`: payments at a steady rate, and how long each takes to be final."""

"""Keys, transaction building and the wallet store."""

"""Key layout and LevelDB."""

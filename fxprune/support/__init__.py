"""What every room needs and nobody outside asks for: files, locks, readers, the terminal."""

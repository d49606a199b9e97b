"""Training before the reader's eyes."""

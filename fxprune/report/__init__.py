"""Tables, words and pictures for people."""

"""Structures above channels: found, named, cut."""

"""Niwaki."""

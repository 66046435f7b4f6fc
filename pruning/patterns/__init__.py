"""Sparsity patterns: one file a pattern; :func:`niwaki.pruning.masks.pattern_for` finds the one for a token."""

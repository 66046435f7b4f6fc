"""Criteria: one file a method, named as in a config; load one with ``niwaki.spaces.registry``."""

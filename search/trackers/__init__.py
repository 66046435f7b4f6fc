"""Trackers: where outcomes go beside the run folder. One a file; the file's name is its name in a configuration."""

from niwaki.search.trackers._base import Tracker, TrackerSetup, figures, settings, tracker_class

__all__ = ["Tracker", "TrackerSetup", "figures", "settings", "tracker_class"]

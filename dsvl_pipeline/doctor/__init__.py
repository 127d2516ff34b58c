"""Checks of what would keep a job from running here, before it is started."""

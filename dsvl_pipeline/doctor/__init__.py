"""What would keep a job from running here, found before it is started."""

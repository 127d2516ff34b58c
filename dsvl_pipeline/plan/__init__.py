"""What a run has to do: what is wanted minus what is committed; knows no Ray."""

"""Search over transcripts, events and detections' labels."""

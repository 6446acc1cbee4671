"""Reads cameras and files, frame by frame, into the node's spool."""

"""Turns results into events with evidence."""

"""A face as one picture shows it, before it becomes part of a track."""

from __future__ import annotations

from framemesh.messages import Face


class Sighting(Face):
    """A face of one frame, with what only the tracks need. It never travels."""

    edges: float | None = None
    """``lids.upright_edges`` of its eyes."""

"""Services of the mesh, one folder each. None imports another."""

"""Takes frames from the node's spool to SeaweedFS and announces them."""

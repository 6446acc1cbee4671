"""The images service: pictures that were uploaded, their thumbnails, and the order in the bucket."""

"""Durable jobs: plans of steps, worked off by any number of workers, surviving the end of any process."""

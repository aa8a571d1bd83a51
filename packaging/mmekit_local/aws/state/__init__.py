"""What a service with a folder remembers: every request that changed something, to be replayed."""

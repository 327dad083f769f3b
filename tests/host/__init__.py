"""A host project unlike ours: no `project`, users with UUIDs for keys, requests in transactions."""

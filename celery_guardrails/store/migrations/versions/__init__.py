"""The revisions, oldest first by number; a published one is never changed."""

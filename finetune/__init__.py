"""Matting networks on the shards: measured and improved."""

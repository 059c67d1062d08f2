"""The disk tier of the prefix cache: records of bytes in checksummed files under one byte cap.

It knows bytes, token ids and names, and neither an engine nor what the arrays mean. Any number of
worker processes share one directory. `DiskCache` in `cache.py` is the way in.
"""

"""Drafts for a sequence that decodes alone, and whether checking them pays.

Pure: token ids and seconds in, drafts out. Nothing here knows an engine, a device or a sampler.
"""

"""What is on disk and what it is called. Pure but for `locate` and `gguf_files`, which read it."""

"""What is on disk and what it is called. Pure but for `locate`, which looks at directories."""

"""``search_documents``: a folder's passages, their vectors, and those nearest to a question."""

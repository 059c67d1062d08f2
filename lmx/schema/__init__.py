"""Public dialects: the only place that spells OpenAI's names. Pure: bytes in, bytes out."""

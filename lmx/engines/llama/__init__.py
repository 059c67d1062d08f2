"""The engine for GGUF files, on llama.cpp. Importing this package does not import its binding."""

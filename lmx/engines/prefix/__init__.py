"""The prefix cache: state of prompts already computed, kept for the next request that begins so."""

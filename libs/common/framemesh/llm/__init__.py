"""Servers that speak the protocol of OpenAI: language models and embeddings."""

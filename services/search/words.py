"""Keywords of a text, as sparse vectors of BM25; how rare a word is the index itself knows."""

from __future__ import annotations

from qdrant_edge import Bm25, Bm25Config, SparseVector

from services.search.shelf import AVERAGE_WORDS


class Words:
    """Stems of one language. Raises ValueError where it is not known."""

    def __init__(self, language: str) -> None:
        self._bm25 = Bm25(Bm25Config(language=language, avg_len=AVERAGE_WORDS, ascii_folding=True))

    def of(self, text: str) -> SparseVector:
        """Of a passage: how much it is about each word."""
        return self._bm25.embed_document(text)

    def asked(self, text: str) -> SparseVector:
        """Of a question: each word once."""
        return self._bm25.embed_query(text)

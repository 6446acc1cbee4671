"""The results database: every job as it last stood, to list and search. SQLite, or PostgreSQL for many hosts."""

"""Paraphrases of curated questions: other words for the same question, and a guard against what only looks alike."""

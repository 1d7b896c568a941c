"""Models whose vocabularies differ, aligned by token text instead of by position."""

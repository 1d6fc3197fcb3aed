"""What was stored, once more as it is to be: without paragraphs that came before, in as many copies as asked for."""

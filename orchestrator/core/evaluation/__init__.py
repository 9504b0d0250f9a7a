"""One set of questions for several models: which of them answers right, and which question needs the dearer one."""

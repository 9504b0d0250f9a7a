"""The commands of `ollamactl` and their options, a room for each kind; what they do is imported once one is called."""

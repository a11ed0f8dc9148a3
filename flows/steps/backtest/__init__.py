"""The time machine: history replayed through the real parts of training, under several policies."""

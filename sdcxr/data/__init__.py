"""Training data: the stateless sample stream, examples of every task, caches of latents and text conditioning."""

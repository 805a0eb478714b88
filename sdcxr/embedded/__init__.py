"""What works without network and data: the embedded base model and the embedded phantoms, built once per user."""

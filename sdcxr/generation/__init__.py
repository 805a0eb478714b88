"""Generation: prompts to a samples folder."""

"""Words of prompts: what of a report one radiograph can show, and templates. Pure functions of texts and tables."""

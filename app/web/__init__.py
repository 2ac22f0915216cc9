"""Pages for people: three templates, one style sheet beside the report's, one script, and no build step."""

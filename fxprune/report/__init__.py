"""What people see: tables, words, Markdown, pictures (one palette), and steps as they run."""
